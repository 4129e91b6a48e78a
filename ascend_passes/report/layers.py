"""A graph's kernels by the layer of the model that they come from."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ascend_passes.report.value import Kernel, Report

OUTSIDE = ""
"""The layer of what lies in none: embedding, rotary table, last norm, head."""
LAYER = re.compile(r"(?:^|.*?\.)(\d+)(?=\.|$)")


@dataclass(frozen=True)
class ModelLayer:
    """What became of one layer of the model."""

    path: str
    """Of the module, `model.layers.3`; `OUTSIDE` for the rest of the model."""
    before: tuple[Kernel, ...]
    after: tuple[Kernel, ...]

    @property
    def alike(self) -> tuple[object, ...]:
        """Equal for layers of which the same became."""
        counts = (Counter(one.operator for one in self.after), len(self.before))
        return self.path == OUTSIDE, frozenset(counts[0].items()), counts[1]


@dataclass(frozen=True)
class Alike:
    """Layers of which the same became."""

    layers: tuple[ModelLayer, ...]

    @property
    def name(self) -> str:
        """`layers 0-63`, or `outside layers`."""
        if self.layers[0].path == OUTSIDE:
            return "outside layers"
        numbers = [layer_number(layer.path) for layer in self.layers]
        return f"layer{'s' * (len(numbers) > 1)} {ranges(numbers)}"


def layer_path(module: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.down_proj`; `OUTSIDE` where no part is a number."""
    found = LAYER.match(module)
    return module[: found.end(1)] if found else OUTSIDE


def layer_number(path: str) -> int:
    """The 3 of `model.layers.3`."""
    return int(path.rpartition(".")[2])


def layers_of(report: Report) -> list[ModelLayer]:
    """The layers of a report's graphs in the order in which they run, the rest of the model
    last."""
    found: dict[str, tuple[list[Kernel], list[Kernel]]] = {}
    for side, kernels in enumerate((report.before, report.after)):
        for kernel in kernels:
            found.setdefault(layer_path(kernel.place.module), ([], []))[side].append(kernel)
    made = [ModelLayer(path, tuple(old), tuple(new)) for path, (old, new) in found.items()]
    return sorted(made, key=lambda layer: layer.path == OUTSIDE)


def alike_layers(layers: Iterable[ModelLayer]) -> list[Alike]:
    """Layers of which the same became, together."""
    found: dict[tuple[object, ...], list[ModelLayer]] = {}
    for layer in layers:
        found.setdefault(layer.alike, []).append(layer)
    return [Alike(tuple(group)) for group in found.values()]


def seconds(kernels: Iterable[Kernel]) -> float:
    """Estimated seconds of some kernels, one after the other."""
    return math.fsum(one.seconds for one in kernels)


def ranges(numbers: Sequence[int]) -> str:
    """`0-3, 7` of 0, 1, 2, 3, 7."""
    return ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in runs(numbers))


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    wanted = sorted(set(numbers))
    start = 0
    for index, number in enumerate(wanted):
        if index + 1 == len(wanted) or wanted[index + 1] != number + 1:
            yield wanted[start], number
            start = index + 1


def modules(paths: Iterable[str]) -> str:
    """`model.layers.{0-63}.mlp` of that module in each layer; different modules with commas."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in dict.fromkeys(paths):
        layer = layer_path(path)
        front, rest = (layer.rpartition(".")[0], path[len(layer) :]) if layer else (path, "")
        found.setdefault((front, rest), []).extend([layer_number(layer)] if layer else [])
    return ", ".join(
        f"{front}{'.' * bool(front)}{braced(numbers)}{rest}" if numbers else front
        for (front, rest), numbers in found.items()
    )


def braced(numbers: Sequence[int]) -> str:
    """`3`, or `{0-63}`."""
    text = ranges(numbers)
    return text if len(numbers) == 1 else f"{{{text}}}"
