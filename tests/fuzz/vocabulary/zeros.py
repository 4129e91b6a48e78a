"""Buffers of zeros: written wholly, in part, not at all."""

from __future__ import annotations

from tests.fuzz.draw import Draw

MADE = (
    "torch.zeros({0}.shape, dtype={0}.dtype)",
    "torch.zeros_like({0})",
    "{0}.new_zeros({0}.shape)",
    "torch.full({0}.shape, 0.0, dtype={0}.dtype)",
    "torch.full_like({0}, 0)",
    "torch.zeros_like({0}, memory_format=torch.contiguous_format)",
)
WRITES = (
    "{r0}[...] = {0}",
    "{r0}[:] = {0}",
    "{r0}.copy_({0})",
    "{r0}[..., :1] = {0}[..., :1]",
    "{r0}[:1] = {0}[:1]",
    "{r0}_h = {0}.shape[-1] // 2\n{r0}[..., :{r0}_h] = {0}[..., :{r0}_h]\n"
    "{r0}[..., {r0}_h:] = {0}[..., {r0}_h:]",
    "{r0}_h = {0}.shape[-1] // 2\n{r0}[..., :{r0}_h] = {0}[..., {r0}_h:{r0}_h * 2]",
    "{r0}.index_copy_(0, torch.arange({0}.shape[0]), {0})",
    "{r0} = {r0}.slice_scatter({0}, 0, 0, {0}.shape[0])",
    "{r0}[0] = {0}[0]",
    "{r0}.add_({0})",
    "{r0}.masked_fill_(torch.isnan({0}), 1.0)",
    "{r0}_old = {r0} * 2\n{r0}.copy_({0})\n{r0} = {r0} + {r0}_old",
    "{r0}[..., ::2] = 1\n{r0}[..., 1::2] = 2",
    "{r0}.fill_(0.5)",
    "pass",
)


def buffer(draw: Draw) -> str:
    """A buffer of zeros and what happens to it."""
    like = draw.pick(lambda t: t.dim() > 0 and t.is_floating_point())
    text = f"{{r0}} = {draw.one_of(*MADE)}\n{draw.one_of(*WRITES)}"
    return draw.emit("zero_buffer", text, like)[0]


def pair(draw: Draw) -> list[str]:
    """Two buffers that are alike, as the caches of keys and of values are."""
    like = draw.pick(lambda t: t.dim() > 0 and t.is_floating_point())
    made = draw.one_of(*MADE)
    write = draw.one_of("", "\n{r0}[:1] = 1", "\n{r1}[:1] = {0}[:1]\n{r0}.copy_({0})")
    return draw.emit("zero_pair", f"{{r0}} = {made}\n{{r1}} = {made}{write}", like, results=2)


def ones(draw: Draw) -> str:
    """A tensor of ones."""
    like = draw.rows(1, 4)
    text = draw.one_of("{r0} = torch.ones_like({0})", "{r0} = torch.full_like({0}, 1)")
    return draw.emit("ones", text, like)[0]


OPERATORS = {buffer: 2.0, pair: 0.8, ones: 0.3}
