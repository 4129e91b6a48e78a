"""Norms in the spellings of models."""

from __future__ import annotations

from tests.fuzz.draw import Draw

EPSILONS = ("1e-6", "1e-5", "0.001")
SQUARES = ("{r0}_w.pow(2)", "{r0}_w * {r0}_w", "torch.square({r0}_w)", "{r0}_w ** 2")
INVERSES = ("torch.rsqrt({0})", "torch.rsqrt({0})", "1.0 / torch.sqrt({0})", "({0}) ** -0.5")


def normalized(draw: Draw) -> str:
    """Lines that leave the normalised rows in {r0}_n, in float32."""
    inside = f"({draw.one_of(*SQUARES)}).mean(-1, keepdim=True) + {draw.one_of(*EPSILONS)}"
    inverse = draw.one_of(*INVERSES).replace("{0}", inside)
    wide = draw.one_of("{0}.to(WIDE)", "{0}.to(dtype=WIDE)")
    return f"{{r0}}_w = {wide}\n{{r0}}_n = {{r0}}_w * {inverse}\n"


def rms_norm_of(draw: Draw, rows: str) -> str:
    """RMSNorm of these rows, in any spelling."""
    width = draw.fixed(rows)
    spelling = draw.one_of("llama", "gpt_oss", "fused", "float_gain", "gemma", "plain")
    if spelling == "fused":
        gain = draw.parameter((width,), "gain")
        text = f"{{r0}} = F.rms_norm({{0}}, ({width},), {{1}}, {draw.one_of(*EPSILONS)})"
        return draw.emit("rms_norm", text, rows, gain)[0]
    if spelling == "plain":
        if draw.chance(0.5):
            text = f"{{r0}} = F.rms_norm({{0}}, ({width},), None, 1e-6)"
            return draw.emit("rms_norm", text, rows)[0]
        return draw.emit("rms_norm", normalized(draw) + "{r0} = {r0}_n.to({0}.dtype)", rows)[0]
    if spelling == "gemma":
        gain = draw.parameter((width,), "small")
        end = "{r0} = ({r0}_n * (1.0 + {1}.to(WIDE))).to({0}.dtype)"
        return draw.emit("gemma_norm", normalized(draw) + end, rows, gain)[0]
    gain = draw.parameter((width,), "gain", "WIDE" if spelling == "float_gain" else "DT")
    end = {
        "llama": "{r0} = {1} * {r0}_n.to({0}.dtype)",
        "gpt_oss": "{r0} = ({1} * {r0}_n).to({0}.dtype)",
        "float_gain": "{r0} = ({r0}_n * {1}).to({0}.dtype)",
    }[spelling]
    return draw.emit("rms_norm", normalized(draw) + end, rows, gain)[0]


def rms_norm(draw: Draw) -> str:
    """RMSNorm of any rows."""
    return rms_norm_of(draw, draw.rows(1, 4))


def add_rms_norm(draw: Draw) -> str:
    """A sum, often of two streams, and its norm; the sum goes on."""
    rows = draw.rows()
    text = draw.one_of("{r0} = {0} + {1}", "{r0} = torch.add({1}, {0})", "{r0} = {0}.add({1})")
    total = draw.emit("residual", text, rows, draw.like(rows))[0]
    return rms_norm_of(draw, total)


def layer_norm(draw: Draw) -> str:
    """LayerNorm."""
    rows = draw.rows()
    width = draw.fixed(rows)
    gain, bias = draw.parameter((width,), "gain"), draw.parameter((width,), "small")
    text = f"{{r0}} = F.layer_norm({{0}}, ({width},), {{1}}, {{2}}, 1e-5)"
    return draw.emit("layer_norm", text, rows, gain, bias)[0]


OPERATORS = {rms_norm: 4.0, add_rms_norm: 5.0, layer_norm: 0.7}
