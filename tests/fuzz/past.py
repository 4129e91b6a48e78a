"""Programs that were wrong once, as small as they were found or could be written."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.fuzz.program import Call, Given, Program, Step

ROWS = Given("x0", "input", ("B", "S", 16), "normal")
OTHER = Given("x1", "input", ("B", "S", 16), "normal")
GAIN = Given("p0", "parameter", (16,), "gain")
SIZES = (("B", 2), ("S", 3), ("T", 6))
DECODE = (("B", 1), ("S", 2), ("T", 2))
NO_ROWS = (("B", 2), ("S", 0), ("T", 0))
TWICE = (Call(1, SIZES), Call(2, SIZES))


def program(
    given: tuple[Given, ...], lines: str, results: str, calls: tuple[Call, ...] = TWICE, **more: Any
) -> Program:
    """A program of one step that names its values itself."""
    names = tuple(results.split())
    used = tuple(one.place for one in given)
    return Program(given, (Step("lines", lines, used, names),), names, calls, **more)


def rewritten(manner: str, *names: str) -> tuple[Call, ...]:
    """A call, a write to parameters, a call."""
    return (Call(1, SIZES), Call(2, SIZES, manner, names))


PACKED = Given("x0", "input", ("B", "S", 2, 4), "normal")
NORMS = "a, b = F.rms_norm({0} + {1}, (16,), {2}, 1e-6), F.rms_norm({1} + {1}, (16,), {2}, 1e-6)"
TWO_NORMS = "a = F.rms_norm({0}, (16,), {1}, 1e-6)\nb = F.rms_norm(a * 2, (16,), {2}, 1e-6)"
EQUAL_GAINS = (ROWS, GAIN, Given("p1", "parameter", (16,), "gain", equal="p0"))
FULL = (("cudagraph_mode", "FULL"),)

PAST: Mapping[str, Program] = MappingProxyType(
    {
        "a replacement made for x + y was used for y + y": program(
            (ROWS, OTHER, GAIN), NORMS, "a b"
        ),
        "two buffers of zeros became one": program(
            (ROWS,),
            "a, b = torch.zeros_like({0}), torch.zeros_like({0})",
            "a b",
            write_results=True,
        ),
        "a result and its clone became one": program(
            (ROWS,), "a = {0} * 2\nb = a.clone()", "a b", write_results=True
        ),
        "a result and its product with one became one": program(
            (ROWS,), "a = {0}.sin()\nb = a * 1", "a b", write_results=True
        ),
        "a result and its detached self became one object": program(
            (ROWS,), "a = {0}.sin()\nb = a.detach()", "a b"
        ),
        "a slice that ends before the first element was not empty": program(
            (ROWS,), "a = {0}[..., :-17]\nb = {0}[..., -30:-15] * 2", "a b"
        ),
        "a mask times itself became integers": program(
            (ROWS, Given("x1", "input", ("B", "S", 16), "mask", "bool")),
            "a = torch.where({1} * {1}, {0}, 0.0)",
            "a",
        ),
        "0.0 and -0.0 became one constant": program(
            (Given("x0", "input", ("B", "S", 16), "zeros"),),
            "a, b = 1 / (-{0} + 0.0), 1 / (-{0} + -0.0)",
            "a b",
        ),
        "a cast lost its memory format": program(
            (PACKED,),
            "a = {0}.to(torch.bfloat16, memory_format=torch.channels_last)\n"
            "b = a.permute(0, 2, 3, 1).view(-1, {0}.shape[1]) * 1.0",
            "a b",
        ),
        "a folded gain was stale after a write through .data": program(
            EQUAL_GAINS, TWO_NORMS, "a b", rewritten("data_copy", "p0", "p1")
        ),
        "equal gains stayed one after a fused optimizer's step": program(
            EQUAL_GAINS, TWO_NORMS, "a b", rewritten("fused_step", "p1")
        ),
        "equal gains stayed one after a write through numpy": program(
            EQUAL_GAINS, TWO_NORMS, "a b", rewritten("numpy_written", "p1")
        ),
        "equal gains stayed one after a write to the storage": program(
            EQUAL_GAINS, TWO_NORMS, "a b", rewritten("storage_written", "p0")
        ),
        "a captured result had other strides": program(
            (ROWS,),
            "a = torch.cat([{0}, {0}], -1).chunk(2, -1)[1]",
            "a",
            (Call(1, DECODE), Call(2, DECODE), Call(3, DECODE)),
            options=FULL,
            dynamic=True,
        ),
        "a call without tokens had no plan": program(
            (ROWS, Given("p0", "parameter", (8, 16), "weight")),
            "a = F.linear({0}, {1})",
            "a",
            (Call(1, NO_ROWS), Call(2, SIZES)),
            options=(("prefetch_mlp", True),),
        ),
        "a call without tokens had no captured size": program(
            (ROWS,), "a = {0} * 2", "a", (Call(1, NO_ROWS), Call(2, NO_ROWS)), options=FULL
        ),
    }
)
"""What went wrong -> the program that shows it."""
