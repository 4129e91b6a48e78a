"""vllm-ascend's product, sum over ranks, residual add and RMSNorm in one operator.

Neither torch_npu nor CANN has it: vllm-ascend's library brings it along and defines it, so that it
is registered here by whoever finds it there, and not with this package. The facts are those of the
wheel of vllm-ascend 0.23: schema and kernels in its libraries, dtypes and formats in the tables
beside them, and the kernel's source, which it carries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ascend_passes.ir.traits import ALL_REDUCE, Matmul
from ascend_passes.npu import collective_parts as parts
from ascend_passes.npu.norm import rms_norm
from ascend_passes.npu.operator import (
    A2,
    HALVES,
    Arguments,
    Conditions,
    Operator,
    empty,
    require,
    require_dtype,
    require_shape,
)

WORLDS = (2, 4, 8)
"""The ranks share 16 cores evenly, and a host has 8 cards whose windows reach each other."""
ALIGNED_COLUMNS = 16
"""Rows of both half precisions are copied in blocks of 32 bytes."""
LOCAL_BYTES = 192 * 1024
"""The unified buffer of a vector core of A2."""
BYTES_A_COLUMN, BYTES_A_RANK, BYTES_BESIDE = 20, 2048, 64
"""What it holds of a row: four halves and three float32 of a column, twice 512 columns of each
rank, and flags. A row that does not fit is not refused by the library."""
WINDOW_BYTES = 200 * 10**6
"""The partial products of all rows lie in a window that all ranks read: HCCL_BUFFSIZE, 200 MB
where nobody sets it. Nothing there refuses more rows."""


def matmul_all_reduce_norm(
    x1: Tensor,
    x2: Tensor,
    residual: Tensor,
    gamma: Tensor,
    groupTp: str,  # noqa: N803 - the schema's names
    tpRankSize: int,  # noqa: N803
    tpRankId: int,  # noqa: N803
    epsilon: float,
    isTransB: bool,  # noqa: N803
    isGatherAddOut: bool,  # noqa: N803
) -> tuple[Tensor, Tensor]:
    """(RMSNorm of the sum, the sum): `all_reduce(x1 @ x2.T) + residual`, times `gamma`.

    Each rank's product is rounded to the rows' dtype, all are summed in float32 with the residual
    and rounded once. Without `isGatherAddOut` a rank writes its own share of the sum's rows alone,
    which rows depends on the kernel's tiling: nobody may read them, and here they are NaN.

    Args:
        x1: `[M, K]`, float16 or bfloat16.
        x2: `[N, K]`, the weight as it lies.
        residual: `[M, N]`.
        gamma: `[N]`.
        groupTp: the group, as `hcom` of other operators.
        tpRankSize: its ranks.
        tpRankId: this process's place among them.
        epsilon: of the norm.
        isTransB: True.
        isGatherAddOut: whether the sum's rows of all ranks are wanted.

    Returns:
        `[M, N]` both, in the dtype of x1.

    Raises:
        NotImplementedError: `isTransB` is False.
    """
    if not isTransB:
        raise NotImplementedError("matmul_allreduce_add_rmsnorm: the weight must lie as [N, K]")
    partial = parts.product(x1, x2.t(), None, None, None, x1.dtype)
    total = parts.reduced(partial.float(), "sum", groupTp) + residual.float()
    rounded = total.to(x1.dtype)
    whole = rounded if isGatherAddOut else torch.full_like(rounded, torch.nan)
    return rms_norm(rounded, gamma, epsilon)[0], whole


def fake_matmul_all_reduce_norm(
    x1: Tensor,
    x2: Tensor,
    residual: Tensor,
    gamma: Tensor,
    groupTp: str,  # noqa: N803
    tpRankSize: int,  # noqa: N803
    tpRankId: int,  # noqa: N803
    epsilon: float,
    isTransB: bool,  # noqa: N803
    isGatherAddOut: bool,  # noqa: N803
) -> tuple[Tensor, Tensor]:
    """([M, N], [M, N])."""
    return empty(residual, residual.shape), empty(residual, residual.shape)


def matmul_all_reduce_norm_limits(arguments: Arguments, soc: str) -> Conditions:
    """A2; matrices of one half precision, densely; rows that fit the vector cores."""
    x1, x2, residual, gamma = (arguments[name] for name in ("x1", "x2", "residual", "gamma"))
    yield soc.startswith(A2), f"its library has kernels for {A2}, not for {soc}"
    ranks = arguments["tpRankSize"]
    yield ranks in WORLDS, f"world size {ranks} is not one of {WORLDS}"
    yield require_dtype("x1", x1, HALVES)
    for name, one in (("x2", x2), ("residual", residual), ("gamma", gamma)):
        yield require_dtype(name, one, (x1.dtype,))
    flat = x1.dim() == x2.dim() == 2
    yield flat, f"x1 and x2 have {x1.dim()} and {x2.dim()} dims but must have 2"
    yield arguments["isTransB"], "isTransB is False but its kernel reads the weight as [N, K]"
    dense = all(one.is_contiguous() for one in (x1, x2, residual, gamma))
    yield dense, "an operand is not contiguous"
    if not flat:
        return
    rows, columns = x1.shape[0], x2.shape[0]
    yield require(x1.shape[1] == x2.shape[1], f"K is {x1.shape[1]} and {x2.shape[1]}")
    yield require_shape("residual", residual, (rows, columns), "the product's")
    yield require_shape("gamma", gamma, (columns,), "one number a column")
    even = columns % ALIGNED_COLUMNS == 0
    yield require(even, f"N = {columns} is not a multiple of {ALIGNED_COLUMNS}")
    used = BYTES_A_COLUMN * columns + BYTES_A_RANK * ranks + BYTES_BESIDE
    yield require(used <= LOCAL_BYTES, f"N = {columns} does not fit a vector core's local memory")
    if isinstance(rows, int):  # of symbolic rows the pass knows the most
        yield fits_window(rows, columns), f"{rows} rows do not fit the group's window"


def fits_window(rows: int, columns: int) -> bool:
    """Whether the partial products of as many rows have room in the memory that ranks share."""
    return rows * columns * 2 <= WINDOW_BYTES


OPERATOR = Operator(
    "matmul_allreduce_add_rmsnorm",
    "matmul_allreduce_add_rmsnorm(Tensor x1, Tensor x2, Tensor residual, Tensor gamma,"
    " str groupTp, int tpRankSize, int tpRankId, float epsilon, bool isTransB,"
    " bool isGatherAddOut) -> (Tensor output, Tensor add_out)",
    fake_matmul_all_reduce_norm,
    matmul_all_reduce_norm,
    matmul_all_reduce_norm_limits,
    "vllm-ascend 0.23; aclnnMatmulAllreduceAddRmsnorm of its custom_transformer",
    namespace="_C_ascend",
    matmul=Matmul("x1", "x2", transposed=True),
    collective=ALL_REDUCE,
    accuracy="2^-8 of the sum of magnitudes for the rounded product of each rank, and half a unit"
    " of the sum; of the norm what `npu_rms_norm` has, on the sum that it gives",
)
"""Registered where the library is, see `passes/matmul_collective/all_reduce_norm.py`."""
