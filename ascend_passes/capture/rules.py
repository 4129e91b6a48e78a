"""Which operators a device graph refuses, read off their tags, schemas and arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ascend_passes.ir.arguments import is_random

GROUP_ARGUMENTS = ("group_name", "hcom", "groupTp", "process_group", "group")
"""Names under which collectives take their group."""
RESIZING = ("aten::resize_", "aten::set_", "aten::resize_as_")
MASKED_WRITES = ("aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


def call_arguments(
    function: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """(name, value) of every argument of a call, defaults included."""
    for index, entry in enumerate(function._schema.arguments):
        if index < len(args):
            yield entry.name, args[index]
        else:
            yield entry.name, kwargs.get(entry.name, entry.default_value)


def capture_refusal(
    function: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """The kind of fault that a call is inside a capture, or None.

    The arguments may be tensors or fake tensors. An index with a mask counts as data-dependent:
    the device counts the mask's ones and waits for the number.
    """
    name = function._schema.name
    given = dict(call_arguments(function, args, kwargs))
    if torch.Tag.data_dependent_output in function.tags:
        return "host_sync"
    if name in ("aten::index", *MASKED_WRITES):
        return "dynamic_shape" if any(map(is_mask, given["indices"])) else None
    if torch.Tag.dynamic_output_shape in function.tags:
        return "dynamic_shape"
    if is_random(function, given):
        return "random"
    return "resized" if name in RESIZING else None


def is_mask(index: Any) -> bool:
    """Whether an index selects by truth values."""
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def group_of(function: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The group that a collective talks to, as text; None for other operators."""
    given = dict(call_arguments(function, args, kwargs))
    return next((str(given[name]) for name in GROUP_ARGUMENTS if given.get(name)), None)
