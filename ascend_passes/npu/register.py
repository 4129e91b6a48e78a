"""Installs the operators into torch, beside torch_npu's own where that is present."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx.node import has_side_effect

from ascend_passes.ir.traits import declare
from ascend_passes.npu.cuda.choose import has_triton_ascend, with_kernel
from ascend_passes.npu.operator import OWN, Operator


@functools.cache
def install(operators: tuple[Operator, ...]) -> tuple[torch.library.Library, ...]:
    """Define what torch_npu has not defined, give every operator its CPU and CUDA kernel, those of
    our own one for the NPU as well, and make its traits known.

    Returns the libraries: the operators live as long as they do, which the cache makes forever.
    """
    load_torch_npu()
    return tuple(
        install_namespace(namespace, [op for op in operators if op.namespace == namespace])
        for namespace in sorted({operator.namespace for operator in operators})
    )


def load_torch_npu() -> None:
    """Import torch_npu where it is installed: it must define its operators before anyone else."""
    if importlib.util.find_spec("torch_npu") is None:
        return
    with contextlib.suppress(
        ImportError, OSError
    ):  # without CANN it cannot load, nor be used later
        importlib.import_module("torch_npu")


def install_namespace(namespace: str, operators: Iterable[Operator]) -> torch.library.Library:
    """Install the operators of one namespace."""
    library = torch.library.Library(namespace, "FRAGMENT")
    existing = getattr(torch.ops, namespace)
    for operator in operators:
        defined = hasattr(existing, operator.name)
        if not defined:
            library.define(operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(operator.qualified_name, operator.fake, lib=library)
        for host, function in by_dispatch_key(operator).items():
            library.impl(operator.name, torch.no_grad()(function), host)
        if operator.effect:  # dead-code elimination must keep what has no result
            has_side_effect(getattr(existing, operator.name).default)
        declare(operator.qualified_name, operator)
    return library


def by_dispatch_key(operator: Operator) -> dict[str, Callable[..., Any]]:
    """Dispatch key -> what runs a call there. torch_npu's operators have its kernels on an NPU."""
    found = {"CPU": operator.reference, "CUDA": with_kernel(operator)}
    own = {"PrivateUse1": with_kernel(operator, has_triton_ascend)}
    return {**found, **own} if operator.namespace == OWN else found
