"""Functions around one operator, as source text: named compositions, and ones that are drawn.

A line that eager cannot run for the inputs at hand is left out, so each composition takes any
operator and any dtype.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tests.soundness.copies import copied

CALL = "op(x, *args, **kwargs)"


@dataclass(frozen=True)
class Program:
    """A function `f(x, *args, **kwargs)`."""

    lines: tuple[str, ...]
    returned: tuple[str, ...]

    @property
    def source(self) -> str:
        """Its text; it uses `torch`, `op`, and `inplace` where the operator has such a form."""
        body = [*self.lines, f"return {', '.join(self.returned)}"]
        return "\n".join(["def f(x, *args, **kwargs):", *(f"    {line}" for line in body)])

    def function(self, names: Mapping[str, Any]) -> Callable[..., Any]:
        """The function, with what it uses."""
        space = {"torch": torch, **names}
        exec(compile(self.source, "<composition>", "exec"), space)
        return space["f"]

    def smaller(self) -> list[Program]:
        """The program without one of its lines or of its results; some of these cannot run."""
        lines = [without(self.lines, i) for i in range(len(self.lines))]
        results = [without(self.returned, i) for i in range(len(self.returned))]
        return [
            *(replace(self, returned=fewer) for fewer in results if fewer),
            *(replace(self, lines=shorter) for shorter in lines[::-1] if shorter),
        ]


def without(items: tuple[str, ...], index: int) -> tuple[str, ...]:
    """All but one."""
    return items[:index] + items[index + 1 :]


PLAIN = Program((), (CALL,))
NAMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "copies": ("a = r.clone()", "b = r.clone()", f"c = {CALL}", "d = r.detach().clone()"),
        "zeros": (
            "a = torch.zeros_like(r)",
            "b = torch.zeros_like(r)",
            "c = torch.zeros(r.shape)",
            "d = torch.zeros(r.shape)",
            "e = torch.zeros_like(r)",
            "e.copy_(r)",
            "g = r.new_zeros((2, *r.shape))",
            "g[0] = r",
        ),
        "unchanged": (
            "a = r * 1",
            "b = r + 0",
            "c = r - 0",
            "d = r / 1",
            "e = r.contiguous()",
            "g = r.to(r.dtype, copy=True)",
            "h = x * 1",
        ),
        "views": (
            "a = r.clone().view(-1)",
            "b = r.transpose(0, -1)",
            "c = r.unsqueeze(0)",
            "d = r.reshape(r.shape)",
            "e = r[..., :-15]",
            "g = r[..., -15:-1]",
            "h = r[..., -2:]",
            "i = r.expand(2, *r.shape)",
            "j = r.t()",
        ),
        "written": (
            "a = r.clone()",
            "r.mul_(2)",
            "b = x.clone()",
            "x.add_(1)",
            "c = x * 1",
            "d = r.view(-1)",
            "d[:1].zero_()",
        ),
        "numbers": (
            "m = r > 0",
            "a = m * m",
            "b = torch.where(m * m, r, 0)",
            "c = ~(m * m)",
            "z = r * 0",
            "d = z + 0.0",
            "e = z + -0.0",
            "g = torch.copysign(r, torch.full_like(r, 0.0))",
            "h = torch.copysign(r, torch.full_like(r, -0.0))",
            "i = r * r",
        ),
        "casts": (
            "a = r.to(torch.bfloat16)",
            "b = r.double().to(r.dtype)",
            "c = r.bool()",
            "d = r.to(torch.float16, memory_format=torch.channels_last)",
            "e = r.unsqueeze(0).expand(3, 2, *r.shape).to(torch.bfloat16)",
            "g = r.reshape(1, 1, 1, -1).to(torch.double, memory_format=torch.channels_last)",
            "h = r.reshape(1, -1, 1, 1).expand(2, -1, 3, 4)"
            ".to(torch.bfloat16, memory_format=torch.channels_last)",
            "i = h.permute(0, 2, 3, 1).view(-1, h.shape[1])",
        ),
        "in place": ("a = x.clone()", "inplace(a, *args, **kwargs)", "b = a.clone()"),
        "graph break": (
            "a = r.clone()",
            "b = torch.zeros_like(r)",
            "c = torch.zeros_like(r)",
            "torch._dynamo.graph_break()",
            "r.mul_(2)",
            "b.add_(1)",
            "d = r * 1",
        ),
    }
)
"""Name -> lines after `r = op(...)`; all that they name is returned, after `r`."""
VALUES = (
    "{a}.clone()",
    "{a}.detach().clone()",
    "{a} * 1",
    "{a} + 0",
    "{a} - 0",
    "{a} * 0",
    "{a} + -0.0",
    "{a}.to({a}.dtype, copy=True)",
    "{a}.to(torch.bfloat16)",
    "{a}.float()",
    "{a}.bool()",
    "{a}.to(torch.float16, memory_format=torch.channels_last)",
    "{a}.contiguous()",
    "{a}.detach()",
    "{a}.view(-1)",
    "{a}.reshape({a}.shape)",
    "{a}.transpose(0, -1)",
    "{a}.t()",
    "{a}.permute(*range({a}.dim()))",
    "{a}.unsqueeze(0)",
    "{a}.expand({a}.shape)",
    "{a}[..., :-7]",
    "{a}[..., -9:-1]",
    "{a}[..., 1:99:2]",
    "{a}[:1]",
    "torch.split({a}, 1, -1)[0]",
    "torch.zeros_like({a})",
    "torch.zeros({a}.shape)",
    "torch.zeros({a}.shape)",
    "torch.full_like({a}, -0.0)",
    "torch.ones_like({a})",
    "{a}.new_zeros({a}.shape)",
    "{a} * {a}",
    "{a}.square()",
    "{a} > 0",
    "torch.where({a} == {a}, {a}, {b})",
    "{a} + {b}",
    "{a} * {b}",
    "1 / {a}",
    "{a}.sin()",
    "{a}.exp()",
    "{a}.softmax(-1)",
    "{a}.sigmoid()",
    "{a}.sum()",
    "{a}.pow(2).mean(-1, keepdim=True)",
    "torch.cat([{a}, {b}])",
    "torch.stack([{a}, {a}])",
    "{a}.clamp(0, 1)",
    CALL,
)
WRITES = (
    "{a}.mul_(2)",
    "{a}.add_(1)",
    "{a}.zero_()",
    "{a}.copy_({b})",
    "{a}.add_({b})",
    "{a}[..., :1].fill_(3)",
    "{a}[:1] = {b}[:1]",
    "{a}.transpose(0, -1).add_(1)",
    "{a}.logical_not_()",
)
LINES = 7
"""Lines of a drawn program, `op`'s own aside."""
TRIES = 60


@dataclass
class Trial:
    """Runs lines in eager as they are added, with copies of a sample's inputs."""

    names: Mapping[str, Any]
    inputs: tuple[Any, tuple[Any, ...], dict[str, Any]]

    def __post_init__(self) -> None:
        x, args, kwargs = copied(self.inputs)
        self.space = {"torch": torch, **self.names, "x": x, "args": args, "kwargs": kwargs}

    def runs(self, line: str) -> bool:
        """Run one more line; False where it raises."""
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                exec(line, self.space)
        except Exception:
            return False
        return True

    def tensors(self) -> list[str]:
        """Names that hold tensors."""
        return [name for name, item in self.space.items() if isinstance(item, Tensor)]


def opened(trial: Trial) -> tuple[str, ...]:
    """The line that calls the operator and names its results; () where it gives no tensors."""
    if not trial.runs(f"r = {CALL}"):
        return ()
    result = trial.space["r"]
    if isinstance(result, Tensor):
        return (f"r = {CALL}",)
    if isinstance(result, (tuple, list)) and result and isinstance(result[0], Tensor):
        trial.runs("r = r[0]")
        return (f"r = {CALL}[0]",)
    return ()


def named(name: str, trial: Trial) -> Program | None:
    """A composition by its name; None where the operator gives nothing to compose with."""
    start = opened(trial)
    lines = tuple(line for line in NAMED[name] if trial.runs(line)) if start else ()
    if not lines:
        return None
    returned = [n for n in trial.tensors() if n != "r"]
    kept = [n for n in returned if n != "x" or name == "written"]
    return Program(start + lines, ("r", *kept))


def drawn(draw: random.Random, trial: Trial) -> Program | None:
    """A program of random lines that returns some of what it made, some of it twice."""
    lines = list(opened(trial))
    if not lines:
        return None
    for index in range(TRIES):
        if len(lines) > LINES:
            break
        line = drawn_line(draw, trial.tensors(), f"v{index}")
        if trial.runs(line):
            lines.append(line)
    return Program(tuple(lines), returned_of(draw, trial.tensors()))


def drawn_line(draw: random.Random, names: Sequence[str], new: str) -> str:
    """A value or a write; what was made last is the likeliest to be used."""
    a, b = (draw.choice([*names, *names[-2:]]) for _ in range(2))
    if draw.random() < 0.3:
        return draw.choice(WRITES).format(a=a, b=b)
    return f"{new} = {draw.choice(VALUES).format(a=a, b=b)}"


def returned_of(draw: random.Random, names: Sequence[str]) -> tuple[str, ...]:
    """Most of the names in any order; sometimes one of them twice."""
    chosen = draw.sample(list(names), max(1, min(5, len(names) - 1)))
    return (*chosen, chosen[0]) if draw.random() < 0.2 else tuple(chosen)
