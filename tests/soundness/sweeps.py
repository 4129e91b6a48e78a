"""All sweeps by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from types import MappingProxyType

from tests.soundness import aliasing, errors, functions, modules, opinfo, past, weights
from tests.soundness.case import Case

SWEEPS: Mapping[str, Callable[[], Iterable[Case]]] = MappingProxyType(
    {
        "past": partial(functions.cases, "past", past),
        "aliasing": partial(functions.cases, "aliasing", aliasing),
        "errors": partial(functions.cases, "errors", errors),
        "weights": weights.cases,
        "modules": modules.cases,
        **{name: partial(opinfo.cases, name) for name in opinfo.SWEEPS},
    }
)
WHAT: Mapping[str, str] = MappingProxyType(
    {
        "past": "faults that this package has had",
        "aliasing": "results that share memory or do not, written after the call, and gradients",
        "errors": "assertions, checks, indices out of range, shapes that do not fit",
        "weights": "ways of changing weights after compilation, with and without gradients",
        "modules": "`module_db`, training and evaluation, three dtypes",
        "plain": "`op_db` in float32, each operator alone",
        "composed": "`op_db` in float32 with copies, zeros, views, slices, masks, casts, writes "
        "and graph breaks around each operator, and two drawn programs",
        "backward": "`op_db` with gradients, alone and composed, results written before backward",
        "dynamic": "`op_db` with symbolic sizes, alone and in drawn programs, called twice",
        "refused": "inputs that `op_db` lists as errors",
        "bfloat16": "`op_db` in bfloat16, alone and in a drawn program",
        "int64": "`op_db` in int64, alone and in a drawn program",
        "bool": "`op_db` in bool, alone, with masks, and in a drawn program",
    }
)


@cache
def named_cases(sweep: str) -> dict[str, Case]:
    """The cases of a sweep by their names."""
    return {case.name: case for case in SWEEPS[sweep]()}
