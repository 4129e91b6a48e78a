"""Gated activations by meaning: an activation of one projection times another.

A piece of two values, or of one that holds both, is computed in float64 at three magnitudes and
compared with each activation that has an operator, with the gate on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, fx

from ascend_passes import npu
from ascend_passes.ir.graph import same_size, value
from ascend_passes.meaning.answer import Answer, NotThat, Slot
from ascend_passes.meaning.cone import (
    Cone,
    ancestors,
    cone_of,
    descendants,
    fake_tensor,
    is_widening,
    makes_itself,
)
from ascend_passes.meaning.family import (
    Place,
    Recognition,
    Recognizer,
    agrees,
    made_of,
    random_rows,
)
from ascend_passes.meaning.lift import WidePiece
from ascend_passes.meaning.looks import looks_like_gate
from ascend_passes.meaning.vocabulary import LAYOUT, MOVES, SMOOTH_PIECES

aten = torch.ops.aten
ANCHORS = frozenset(
    {
        *(aten.silu.default, aten.sigmoid.default, aten.exp.default, aten.tanh.default),
        *(aten.gelu.default, aten.erf.default, aten.glu.default, aten.exp2.default),
        *(aten._softmax.default, aten.expm1.default, aten.log_sigmoid_forward.default),
        *(aten.softplus.default, aten.logaddexp.default),
    }
)
"""Operators by which an activation is spelled."""
ALLOWED_HERE = SMOOTH_PIECES | MOVES
MAGNITUDES = (0.1, 4.0, 20.0)
REACH = BEFORE, BEHIND = 9, 9
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "silu": lambda gate: gate / (1 + torch.exp(-gate)),
        "none": lambda gate: gate * 0.5 * (1 + torch.erf(gate / 2**0.5)),
        "tanh": lambda gate: (
            gate * 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        ),
    }
)
"""What the operators activate: SwiGLU, and GELU exactly and by a tanh."""
GELU_CODES = MappingProxyType({"none": 0, "tanh": 1})
"""`npu_geglu`'s numbers for them."""


def gate_places(anchor: fx.Node) -> Iterator[Place]:
    """Products behind an activation, with one value that holds both factors, then with its gate."""
    before = [node for node in ancestors(anchor, BEFORE, ALLOWED_HERE) if is_floating(node)]
    for out in (*descendants(anchor, BEHIND, ALLOWED_HERE), anchor):
        if not is_floating(out) or out.target in LAYOUT or is_widening(out):
            continue
        count = value(out).numel()
        yield from ((out, (x,)) for x in before if same_size(value(x).numel(), 2 * count))
        yield from ((out, (x,)) for x in before if same_size(value(x).numel(), count))


def is_floating(node: fx.Node) -> bool:
    """Whether a node holds a floating tensor with dims."""
    fake = fake_tensor(node)
    return fake is not None and fake.dtype.is_floating_point and fake.dim() > 0


def gate_piece(place: Place) -> Cone | None:
    """The piece of a packed value, or of the gate and the one other value that it reads."""
    out, sources = place
    cone = cone_of(out, sources, ALLOWED_HERE, makes_itself)
    if cone is None or not any(node.target in ANCHORS for node in cone.own):
        return None
    packed = not same_size(value(sources[0]).numel(), value(out).numel())
    if packed or not cone.leaves:
        return cone if packed and not cone.leaves else None
    (up, *more) = cone.leaves
    if more or not is_floating(up) or not same_size(value(up).numel(), value(out).numel()):
        return None
    return cone_of(out, (*sources, up), ALLOWED_HERE, makes_itself)


def solve_gate(lifted: WidePiece) -> Answer | NotThat:
    """The gated activation that a piece is."""
    source = torch.Generator().manual_seed(2)
    shapes = [lifted.shape(node) for node in lifted.cone.sources]
    forms = None
    for magnitude in MAGNITUDES:
        given = [
            torch.randn(shape, generator=source, dtype=torch.float64) * magnitude
            for shape in shapes
        ]
        found = lifted.at(dict(zip(lifted.cone.sources, given, strict=True)))
        fitting = {name for name, wanted in products(given, found.numel()) if agrees(found, wanted)}
        forms = fitting if forms is None else forms & fitting
    if not forms:
        return NotThat("it is no gated activation that an operator computes")
    return gate_answer(*min(forms))


Form = tuple[str, str]
"""Activation, and where the gate lies."""


def products(given: list[Tensor], count: int) -> Iterator[tuple[Form, Tensor]]:
    """Every gated activation of one or two values."""
    for name, activation in ACTIVATIONS.items():
        for side, gate, up in factors(given):
            if gate.numel() == up.numel() == count:
                yield (name, side), activation(gate.reshape(-1)) * up.reshape(-1)


def factors(given: list[Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The gate and the other factor, in each way in which they may lie."""
    if len(given) == 2:
        yield "first", given[0], given[1]
        yield "second", given[1], given[0]
        return
    packed = given[0]
    if packed.shape[-1] % 2:
        return
    left, right = packed.chunk(2, -1)
    yield "left", left, right
    yield "right", right, left
    yield "even", packed[..., ::2], packed[..., 1::2]
    yield "odd", packed[..., 1::2], packed[..., ::2]


def gate_answer(activation: str, side: str) -> Answer | NotThat:
    """The operator for a form."""
    apart = side in ("first", "second")
    slots = {"x": Slot(0), "other": Slot(1)} if apart else {"x": Slot(0)}
    numbers = {"side": side}
    if activation == "silu":
        rule = "swiglu_unpacked" if apart else "swiglu"
        return Answer(rule, built_swiglu, slots, numbers, tuple(slots))
    if apart:
        return NotThat("npu_geglu takes one packed value, and these are two", near=True)
    return Answer("geglu", built_geglu, slots, {**numbers, "kind": activation}, ("x",))


def built_swiglu(x: Tensor, other: Tensor | None = None, *, side: str) -> Tensor:
    """`npu_swiglu`, whose gate is the left half of its input, [..., 2 I]."""
    activated: Tensor = npu.npu_swiglu(packed_for(x, other, side), -1)
    return activated


def built_geglu(x: Tensor, *, side: str, kind: str) -> Tensor:
    """`npu_geglu`, which activates either half of its input, [..., 2 I]."""
    is_left = side != "right"
    packed = packed_for(x, None, side) if is_left else x
    activated: Tensor = npu.npu_geglu(packed, -1, GELU_CODES[kind], is_left)[0]
    return activated


def packed_for(x: Tensor, other: Tensor | None, side: str) -> Tensor:
    """One tensor with the gate in its left half."""
    half = x.shape[-1] // 2
    if other is not None:
        other = other.reshape(x.shape)
        return torch.cat((x, other) if side == "first" else (other, x), -1)
    if side == "right":
        return torch.cat((x[..., half:], x[..., :half]), -1)
    if side == "left":
        return x
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat((even, odd) if side == "even" else (odd, even), -1)


def spelled_gate(packed: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """A gated activation of one packed projection."""
    gate, up = packed.chunk(2, -1)
    return activation(gate) * up


RULES: Mapping[str, Recognition] = MappingProxyType(
    {
        "swiglu": Recognition(
            "SwiGLU of one packed projection becomes `npu_swiglu`.",
            lambda packed: spelled_gate(packed, torch.nn.functional.silu),
            made_of(random_rows(6, 128)),
        ),
        "swiglu_unpacked": Recognition(
            "SwiGLU of separate projections becomes `npu_swiglu` of both, side by side.",
            lambda gate, up: torch.nn.functional.silu(gate) * up,
            made_of(random_rows(6, 64), random_rows(6, 64)),
        ),
        "geglu": Recognition(
            "GeGLU of one packed projection, by erf or by tanh, becomes `npu_geglu`.",
            lambda packed: spelled_gate(packed, torch.nn.functional.gelu),
            made_of(random_rows(6, 128)),
            tolerance=3.0,
        ),
    }
)
GATES = Recognizer(
    "gated",
    RULES,
    ANCHORS,
    gate_places,
    gate_piece,
    solve_gate,
    ALLOWED_HERE,
    REACH,
    looks_like_gate,
)
