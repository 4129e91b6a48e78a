"""The collectives of a graph as text that ranks can compare, and the words for a difference."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx

from ascend_passes.cost.model import tensors
from ascend_passes.distributed.groups import resolve
from ascend_passes.ir.graph import FRAME, arguments_by_name, model_line, operator_name, place, value
from ascend_passes.ir.traits import traits_of
from ascend_passes.report.value import Place

GROUPS = ("group_name", "hcom", "groupTp")
"""Arguments of collectives that name their group."""
OWN = ("tpRankId",)
"""Arguments in which each rank says who it is."""
NOTHING = "none"
TORCH = str(Path(torch.__file__).parent)


def schedule(graph: fx.Graph) -> list[str]:
    """The collectives in their order: a line with what ranks compare, one with where it is.

    Compared are operator, group, other plain arguments, shapes and dtypes. Ranks call a group and a
    symbolic size by names of their own, so both are numbered as they appear.
    """
    found, groups = [], dict[str, int]()
    for node in graph.nodes:
        if traits_of(node.target).collective:
            found.append((schedule_line(node, groups), str(place_of(node))))
    lines = with_numbered_symbols([what for what, _ in found])
    return [f"{what}\n{where}" for what, (_, where) in zip(lines, found, strict=True)]


def schedule_line(node: fx.Node, groups: dict[str, int]) -> str:
    """A collective without its place; `groups` numbers those of the lines before."""
    plain = []
    for name, given, _ in arguments_by_name(node):
        if name in GROUPS:
            plain.append(group_words(str(given), node, groups))
        elif isinstance(given, (str, int)) and name not in OWN:
            plain.append(f"{name}={given}")
    moved = [f"{t.dtype}{list(t.shape)}" for t in tensors([value(n) for n in inputs(node)])]
    made = [f"{t.dtype}{list(t.shape)}" for t in tensors([value(node)])]
    return f"{operator_name(node)} of {', '.join(moved)} to {', '.join(made)} {' '.join(plain)}"


def place_of(node: fx.Node) -> Place:
    """The module and the model's line; the innermost frames are in torch, which calls operators."""
    trace = node.meta.get("stack_trace") or ""
    frames = [found for found in FRAME.finditer(trace) if not found["file"].startswith(TORCH)]
    found = place(node)
    return replace(found, line=model_line(trace[: frames[-1].end()])) if frames else found


def group_words(name: str, node: fx.Node, groups: dict[str, int]) -> str:
    """A group by the order of its first appearance, and its size where this process knows it."""
    group = resolve(name, operator_name(node).partition("::")[0])
    number = groups.setdefault(group.name if group else name, len(groups) + 1)
    return f"in group {number}" + (f" of {group.size} ranks" if group else "")


def inputs(node: fx.Node) -> list[fx.Node]:
    """The tensors that a collective moves: its first argument, or both factors of a matmul."""
    return [n for n in node.args[:2] if isinstance(n, fx.Node) and isinstance(value(n), Tensor)]


def with_numbered_symbols(lines: list[str]) -> list[str]:
    """The same lines with symbols numbered as they appear: names depend on the process."""
    names: dict[str, str] = {}
    rename = lambda found: names.setdefault(found[0], f"size{len(names)}")  # noqa: E731
    return [re.sub(r"\bs\d+\b", rename, line) for line in lines]


def compared_part(collective: str) -> str:
    """The part of a line of `schedule` in which ranks must agree."""
    return collective.partition("\n")[0]


def hashed(texts: Sequence[str]) -> str:
    """Twelve digits that stand for what ranks compare of these lines."""
    return hashlib.sha256("\n".join(map(compared_part, texts)).encode()).hexdigest()[:12]


def told_apart(sides: Mapping[str, Sequence[str]]) -> str:
    """Where lists differ first, in words.

    Args:
        sides: whose it is -> its lines.
    """
    counts = {len(lines) for lines in sides.values()}
    for index in range(max(counts)):
        here = {
            who: lines[index] if index < len(lines) else NOTHING for who, lines in sides.items()
        }
        if len({compared_part(line) for line in here.values()}) > 1:
            many = "; ".join(f"{who} have {len(lines)}" for who, lines in sides.items())
            number = f" ({many} in all)" if len(counts) > 1 else ""
            told = "; ".join(f"{who} have {schedule_text(line)}" for who, line in here.items())
            return f"number {index + 1}{number}: {told}"
    return ""


def schedule_text(collective: str) -> str:
    """A line of `schedule` in one line."""
    what, _, where = collective.partition("\n")
    return f"{what} ({where})" if where else what
