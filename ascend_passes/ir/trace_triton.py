"""The launch of a Triton kernel as a node of the graph that is traced, which Inductor launches.

`torch.library.wrap_triton` does so for kernels that are given pointers. Matrices that the GPU's
copy engine reads in tiles are known to Inductor as well, but not to `wrap_triton`, so that its node
is made here. One of the files with private torch imports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.triton_kernel_wrap import (
    TracingTritonHOPifier,
    create_tma_stable_metadata,
    triton_kernel_wrapper_mutation,
)
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor


@dataclass(frozen=True)
class InTiles:
    """A row-major matrix that a kernel reads in tiles."""

    matrix: Tensor
    tile: tuple[int, int]
    """Rows and columns."""


class LaunchNode(TracingTritonHOPifier):
    """Makes the node of a launch whose arguments may be `InTiles`."""

    def call_HOP(  # noqa: N802 - torch's name
        self, variable: Any, grids: list[Any], combined_args: dict[str, Any], tx: None
    ) -> None:
        """The node, with what each matrix in tiles is told of them."""
        tiled = {n: a for n, a in combined_args.items() if isinstance(a, InTiles)}
        plain = combined_args | {name: argument.matrix for name, argument in tiled.items()}
        graphable, constants = self.store_non_graphable_args(plain)
        triton_kernel_wrapper_mutation(
            kernel_idx=variable.kernel_idx,
            constant_args_idx=constants,
            grid=grids,
            tma_descriptor_metadata={
                name: create_tma_stable_metadata(list(argument.tile))
                for name, argument in tiled.items()
            },
            kwargs=graphable,
        )


def is_traced(matrix: Tensor) -> bool:
    """Whether a tensor stands for those of later calls, and has no memory."""
    return isinstance(matrix, FakeTensor | FunctionalTensor)


def launch_as_node(
    kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], how: Mapping[str, int]
) -> None:
    """Launch a kernel of `triton.jit` in the graph that is traced.

    Args:
        kernel: the kernel.
        grid: programs along each of at most three dims.
        arguments: one for each parameter of the kernel.
        how: numbers of warps and stages.
    """
    launched: Any = torch.library.wrap_triton(kernel)[grid]
    if any(isinstance(argument, InTiles) for argument in arguments):
        LaunchNode().call_triton_kernel(launched, arguments, dict(how), None)
    else:
        launched(*arguments, **how)
