"""Questions to the real wheel about one operator."""

from __future__ import annotations

import torch
import torch_npu  # noqa: F401  registers the operators

from ascend_passes.npu.operator import Operator
from ascend_passes.support import minor
from tests.conformance import wheel_faults
from tests.conformance.build import VERSION


def overload(operator: Operator) -> torch._ops.OpOverload:
    """The wheel's operator of the same name."""
    return getattr(getattr(torch.ops, operator.namespace), operator.name).default


def schema(operator: Operator) -> str:
    """The wheel's schema, without the namespace."""
    return str(overload(operator)._schema).split("::", 1)[1]


def older(name: str) -> bool:
    """Whether the wheel's release has the operator in the form of `wheel_faults.OLDER`."""
    return name in wheel_faults.OLDER and minor(VERSION) < minor("2.11.0")


def wants_mask(name: str) -> bool:
    """Whether a call that does not say which results are on cannot be made with this release."""
    return name == wheel_faults.MASKED and older(name)


def has_meta(operator: Operator) -> bool:
    """Whether the wheel can tell the result's shape without running the operator."""
    name = operator.qualified_name
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        for key in ("Meta", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
    )


def normalized(text: str) -> str:
    """A schema as torch prints it, so that two spellings of one float compare equal."""
    return str(torch._C.parse_schema(text))
