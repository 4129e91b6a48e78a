"""Kernels in lists: those of a layer, all that run, and what took the place of what.

Layers of which the same became are listed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from ascend_passes.report.layers import Alike, ModelLayer, alike_layers, layers_of
from ascend_passes.report.value import Kernel, Report

KEPT, GONE, NEW = " ", "-", "+"
"""First character of a line of `diff_lines`."""


def kernel_lines_of(report: Report) -> Iterator[str]:
    """Every kernel that runs, in its order, by layer."""
    operators = {one.name: one.operator for one in report.before}
    for group in alike_layers(layers_of(report)):
        yield heading(group)
        yield from (f"  {line}" for line in running(group.layers[0].after, operators))


def layer_lines(report: Report, layer: ModelLayer) -> Iterator[str]:
    """One layer: what ran there, and what runs now and where in the model it comes from."""
    operators = {one.name: one.operator for one in report.before}
    yield f"{layer.path}: {len(layer.before)} kernels before"
    for kernel in layer.before:
        yield f"  {kernel_text(kernel)}  {source(kernel)}"
    yield f"{layer.path}: {len(layer.after)} kernels after"
    for kernel, line in zip(layer.after, running(layer.after, operators), strict=True):
        yield f"  {line}"
        yield f"      {source(kernel)}"


def diff_lines(report: Report) -> Iterator[str]:
    """Kernels of the model with `-` in front of what is gone and `+` of what took its place."""
    before = {one.name: one for one in report.before}
    once = {name for kept in report.once for name in kept.covers}
    for group in alike_layers(layers_of(report)):
        yield f"@@ {heading(group)} @@"
        layer, shown = group.layers[0], set[str]()
        for kernel in layer.after:
            yield from exchange_lines(kernel, before)
            shown.update(kernel.covers)
        for kernel in layer.before:
            if kernel.name in once:
                yield f"{GONE} {kernel_text(kernel)}  computed once"
            elif kernel.name not in shown:
                yield f"{GONE} {kernel_text(kernel)}  not needed here"


def exchange_lines(kernel: Kernel, before: Mapping[str, Kernel]) -> Iterator[str]:
    """A kernel that runs, behind those that it stands for."""
    if kernel.name in before and kernel.covers == (kernel.name,) and not kernel.author:
        yield f"{KEPT} {kernel_text(kernel)}"
        return
    gone = [f"{GONE} {kernel_text(before[name])}  {source(before[name])}" for name in kernel.covers]
    for line, equal in groupby(gone):
        count = len(list(equal))
        yield line + f"  ({count} times)" * (count > 1)
    yield f"{NEW} {kernel_text(kernel)}{author_text(kernel)}"


def heading(group: Alike) -> str:
    """`layers 1-63, each: 171 -> 18 kernels`."""
    layer, each = group.layers[0], ", each" * (len(group.layers) > 1)
    return f"{group.name}{each}: {len(layer.before)} -> {len(layer.after)} kernels"


def running(kernels: Iterable[Kernel], operators: Mapping[str, str]) -> Iterator[str]:
    """A line for each kernel that runs: what, where, by whom, for what, how long."""
    for kernel in kernels:
        counts = Counter(operators[name].rpartition(":")[2] for name in kernel.covers)
        work = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())
        took = f" for {work}" if kernel.author and work else ""
        where = f" at {kernel.place.module}" if kernel.place.module else ""
        yield f"{kernel_text(kernel)}{where}{author_text(kernel)}{took}, {microseconds(kernel)}"


def kernel_text(kernel: Kernel) -> str:
    """`npu::npu_rms_norm bfloat16[1, 16, 64]`."""
    return f"{kernel.operator} {kernel.result}".rstrip()


def author_text(kernel: Kernel) -> str:
    """` by rms_norm`, for what a rule or pass put in."""
    return f" by {kernel.author}" if kernel.author else ""


def source(kernel: Kernel) -> str:
    """The model's line, or its module where no line is known."""
    return kernel.place.line or kernel.place.module or "no line of the model"


def microseconds(kernel: Kernel) -> str:
    """The estimate."""
    return f"{kernel.seconds * 1e6:.2f} µs"
