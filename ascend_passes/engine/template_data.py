"""A template as plain data and back: what `stored_templates.json` holds of it.

Data alone, so that a file can be read by people and cannot run anything: operators by their names,
uses of values as small objects, sizes as the arithmetic that they are.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import torch

from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.engine.template_value import (
    COMMUTATIVE,
    InputUse,
    ScalarUse,
    SizeUse,
    Step,
    Template,
    Term,
)
from ascend_passes.ir.traced_sizes import arithmetic

PART = "getitem"
"""The name of `operator.getitem`, the only target that is no operator of torch's."""


class NotDataError(ValueError):
    """A template with something in it that has no form as data; it is traced in each process."""


def to_data(template: Template) -> dict[str, Any]:
    """What `from_data` needs beside the rule, the spelling and the dtype.

    Raises:
        NotDataError: a target, an argument or a size without a form as data.
    """
    return {
        "steps": [
            [target_name(step.target), *map(argument_data, step.arguments)]
            for step in template.steps
        ],
        "outputs": list(template.outputs),
        "anchor": [template.anchor, template.anchor_rank],
        "ranks": dict(template.ranks),
    }


def from_data(
    data: Mapping[str, Any], rule: Rule, spelling: Spelling, dtype: torch.dtype
) -> Template:
    """The template again; equal to the one that was stored but for identity."""
    anchor, anchor_rank = data["anchor"]
    return Template(
        rule,
        spelling,
        dtype,
        steps=tuple(step_of(name, given) for name, *given in data["steps"]),
        outputs=tuple(data["outputs"]),
        anchor=anchor,
        anchor_rank=anchor_rank,
        ranks=dict(data["ranks"]),
    )


def step_of(name: str, given: list[Any]) -> Step:
    """A step by its operator's name."""
    target = target_named(name)
    return Step(target, tuple(map(argument_from_data, given)), target in COMMUTATIVE)


def target_name(target: Any) -> str:
    """`aten.mul.Tensor`; errors as in `to_data`."""
    if target is operator.getitem:
        return PART
    if not isinstance(target, torch._ops.OpOverload) or target_named(str(target)) is not target:
        raise NotDataError(f"{target} is no operator that torch finds by its name")
    return str(target)


@functools.cache
def target_named(name: str) -> Any:
    """The operator of a name; only torch's operators have one."""
    if name == PART:
        return operator.getitem
    namespace, called, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), called), overload)


def argument_data(argument: Any) -> Any:
    """An argument as data; errors as in `to_data`."""
    if argument is None or type(argument) in (bool, int, float, str):
        return argument
    if isinstance(argument, tuple):
        return [argument_data(item) for item in argument]
    match argument:
        case Term(index):
            return {"step": index}
        case InputUse(name):
            return {"input": name}
        case ScalarUse(name):
            return {"scalar": name}
        case SizeUse(text, _, sources) if arithmetic(text) is not None:
            return {"size": text, "of": [list(source) for source in sources]}
        case torch.dtype():
            return {"dtype": str(argument).removeprefix("torch.")}
        case torch.device():
            return {"device": str(argument)}
    raise NotDataError(f"{argument!r} has no form as data")


def argument_from_data(data: Any) -> Any:
    """The argument of some data."""
    if isinstance(data, list):
        return tuple(map(argument_from_data, data))
    if not isinstance(data, dict):
        return data
    match data:
        case {"step": index}:
            return Term(index)
        case {"input": name}:
            return InputUse(name)
        case {"scalar": name}:
            return ScalarUse(name)
        case {"size": text, "of": sources}:
            return size_named(text, sources)
        case {"dtype": name}:
            return getattr(torch, name)
        case {"device": name}:
            return torch.device(name)
    raise NotDataError(f"{data!r} is the form of nothing")


def size_named(text: str, sources: list[list[Any]]) -> SizeUse:
    """A size by its arithmetic and the sizes of inputs that it is computed from."""
    function = arithmetic(text)
    if function is None:
        raise NotDataError(f"{text!r} is no arithmetic of sizes")
    return SizeUse(text, function, tuple((name, dim) for name, dim in sources))
