"""What the passes know of operators beside their schemas: one `Traits` for each, asked by name.

An operator of the NPU set declares its traits where it is declared, in `ascend_passes/npu`, and one
of somebody else's where it is registered; `OTHERS` holds those of torch, vLLM and torch_npu. What a
schema or a tag of torch says (writes, views, pointwise) is read there and stands in no table.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch

Answer = TypeVar("Answer")
OURS = ("npu", "atb", "ascend_passes")
"""Namespaces whose operators `ascend_passes.npu` declares."""
COLLECTIVES = ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER = "all_reduce", "reduce_scatter", "all_gather"
PADDED_ROWS = "it writes the rows of real tokens only, so padded rows would keep what was there"


@dataclass(frozen=True)
class Matmul:
    """The arguments of a product by name: left is [..., M, K], right is [..., K, N]."""

    left: str
    right: str
    bias: str = ""
    """What is added to each row of the product."""
    scale: str = ""
    """Dequantizing scale of each column of right."""
    row_scale: str = ""
    """Dequantizing scale of each row of left."""
    shows: tuple[str, ...] = ()
    """Arguments that only choose the result's dtype, which the result shows."""
    transposed: bool = False
    """Whether right is [N, K]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Traits:
    """What holds of all calls of an operator. The defaults say nothing of it."""

    rows: tuple[str, ...] = ()
    """Arguments with one row per token, of an operator whose results have one as well: the call on
    some of the rows gives those rows of the results. Every other tensor serves all rows."""
    columns: tuple[str, ...] = ()
    """Arguments that name a dimension, or several, to work over: rows must lie in front of it."""
    trailing: str = ""
    """The argument with the sizes of the last dimensions, which are worked over as one."""
    rows_if: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Argument -> the values with which `rows` holds; with any other, rows are worked over."""
    identity: str = "sink_pointwise"
    """The identity that FlashComm uses, for the switch `-sequence_parallel.<identity>`."""
    keeps_order: bool = False
    """Whether the result has the elements of the first argument, in the same row-major order."""
    matmul: Matmul | None = None
    """The factors, of an operator that multiplies matrices."""
    multiplies: bool = False
    """Whether it multiplies by weights that `matmul` does not name, such as those of experts."""
    hides_weight: bool = False
    """Whether it multiplies by a weight that its module keeps, so that no graph shows it, and sums
    over the ranks itself."""
    collective: str = ""
    """What the ranks of a group do in it: all_reduce, reduce_scatter or all_gather."""
    writes: tuple[str, ...] = ()
    """Arguments that the kernel writes though the schema does not say so."""
    returns_input: bool = False
    """Whether the result lies in the argument's memory though the schema does not say so."""
    given_twice: tuple[str, ...] = ()
    """Arguments that may be the tensor that the operator writes: whoever has it calls it so."""
    partial_writes: str = ""
    """Why an argument that the schema has written keeps some of its content; "" where it does
    not."""
    prefetches: str = ""
    """The argument that the operator brings into L2."""
    effect: bool = False
    """Whether a call matters that neither writes nor returns; others may move across it."""
    asserts: bool = False
    """Whether the operator raises or does nothing."""
    host_lists: tuple[str, ...] = ()
    """Lists of integers on the host that a captured graph takes anew at each replay."""
    activation: bool = False
    """Whether the operator is an activation of an MLP, or holds one."""
    free: bool = False
    """Whether a call takes no time of the device."""


NOTHING = Traits()
"""Of an operator that nobody declared."""
PLAIN_MATMUL = Traits(matmul=Matmul("self", "mat2"))
VIEW, ASSERTION = Traits(keeps_order=True), Traits(asserts=True)
REDUCTION = Traits(rows=("self",), columns=("dim",), identity="sink_norm")
PARTS = Traits(rows=("self",), columns=("dim",), identity="sink_columns")
NORM = Traits(rows=("input",), trailing="normalized_shape", identity="sink_norm")
PARTIAL_WRITER = Traits(partial_writes=PADDED_ROWS)

ATEN: Mapping[str, Traits] = MappingProxyType(
    {
        "mm": PLAIN_MATMUL,
        "bmm": PLAIN_MATMUL,
        "_int_mm": PLAIN_MATMUL,
        "_grouped_mm": Traits(multiplies=True),
        "matmul": Traits(matmul=Matmul("self", "other")),
        "addmm": Traits(matmul=Matmul("mat1", "mat2", bias="self")),
        "linear": Traits(matmul=Matmul("input", "weight", bias="bias", transposed=True)),
        "silu": Traits(activation=True),
        "gelu": Traits(activation=True),
        **dict.fromkeys(("sym_size", "empty", "empty_like", "new_empty"), Traits(free=True)),
        "detach": Traits(keeps_order=True, free=True),
        **dict.fromkeys(("rms_norm", "layer_norm"), NORM),
        **dict.fromkeys(("mean", "sum", "amax", "amin"), REDUCTION),
        **dict.fromkeys(("slice", "split", "split_with_sizes"), PARTS),
        **dict.fromkeys(
            (
                *("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "view_copy"),
                *("unsqueeze", "squeeze", "alias", "clone", "contiguous"),
                *("lift_fresh_copy", "expand"),
            ),
            VIEW,
        ),
        **dict.fromkeys(
            (
                *("_assert_async", "_assert_scalar", "_assert_tensor_metadata"),
                *("sym_constrain_range", "sym_constrain_range_for_size"),
            ),
            ASSERTION,
        ),
    }
)
"""torch's own operators."""
OTHERS: Mapping[str, Traits] = MappingProxyType(
    {
        **{f"aten::{name}": traits for name, traits in ATEN.items()},
        "_c10d_functional::all_reduce": Traits(collective=ALL_REDUCE),
        "_c10d_functional::all_reduce_": Traits(collective=ALL_REDUCE),
        "_c10d_functional::reduce_scatter_tensor": Traits(collective=REDUCE_SCATTER),
        "_c10d_functional::all_gather_into_tensor": Traits(collective=ALL_GATHER),
        "_c10d_functional::all_gather_into_tensor_coalesced": Traits(collective=ALL_GATHER),
        "_c10d_functional::wait_tensor": Traits(returns_input=True, free=True),
        "vllm::all_reduce": Traits(collective=ALL_REDUCE),
        "vllm::reduce_scatter": Traits(collective=REDUCE_SCATTER),
        "vllm::all_gather": Traits(collective=ALL_GATHER),
        # vllm-ascend's layers. The second gives the residual as it is where both have as many rows.
        "vllm::unquantized_gemm": Traits(matmul=Matmul("x", "weight", "bias", transposed=True)),
        "vllm::maybe_chunk_residual": Traits(rows=("x", "residual")),
        "vllm::matmul_and_reduce": Traits(hides_weight=True),
        "vllm::prefetch_preprocess": Traits(effect=True, prefetches="weight"),
        "vllm::prefetch_postprocess": Traits(effect=True),
        # vLLM's backends write output[:num_actual_tokens]; a padded batch has more rows.
        "vllm::unified_attention_with_output": PARTIAL_WRITER,
        "vllm::unified_attention": PARTIAL_WRITER,
        "vllm::unified_mla_attention_with_output": PARTIAL_WRITER,
        **dict.fromkeys(
            (f"npugraph_ex::{name}" for name in ("scope_enter", "scope_exit", "wait")),
            Traits(free=True),
        ),
        # Experts that make the logits of their router themselves are given the tokens for them.
        "vllm::moe_forward": Traits(
            multiplies=True, given_twice=("router_logits", "shared_experts_input")
        ),
        "vllm::moe_forward_shared": Traits(multiplies=True),
        # Kernels of torch_npu 2.13 without a reference here; the lists after its `acl_graph.py`.
        "npu::npu_fused_infer_attention_score": Traits(
            host_lists=(
                "actual_seq_lengths",
                "actual_seq_lengths_kv",
                "actual_shared_prefix_len",
            )
        ),
        "npu::npu_fused_infer_attention_score_v2": Traits(
            host_lists=("actual_seq_qlen", "actual_seq_kvlen")
        ),
        "npu::npu_kv_rmsnorm_rope_cache": Traits(writes=("k_cache", "ckv_cache")),
        "npu::npu_dequant_rope_quant_kvcache": Traits(writes=("k_cache", "v_cache")),
        "npu::npu_mla_prolog": Traits(writes=("kv_cache", "kr_cache")),
        "npu::npu_mla_prolog_v2": Traits(writes=("kv_cache", "kr_cache")),
        "npu::_npu_distribute_barrier": Traits(writes=("x_ref",)),
    }
)
"""Operator -> its traits, of all that are not declared in `ascend_passes.npu`."""
_declared: dict[str, Traits] = dict(OTHERS)
_forget: list[Callable[[], None]] = []


def rests_on_traits(question: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """`functools.cache` for a question about what a node calls, asked anew where traits are
    declared. An operator's hash is computed in Python, so that each look into a cache counts."""
    known = functools.cache(question)
    _forget.append(known.cache_clear)
    return known


def declare(name: str, traits: Traits) -> None:
    """Make the traits of an operator known, by its `namespace::name`, from now on."""
    _declared[name] = traits
    for forget in _forget:
        forget()


def declared() -> Mapping[str, Traits]:
    """Every operator that has traits."""
    importlib.import_module("ascend_passes.npu")
    return MappingProxyType(dict(_declared))


@rests_on_traits
def traits_of(target: Any) -> Traits:
    """The traits of what a node calls: an overload, a packet or a `namespace::name`.

    `NOTHING` for everything else, such as the name of a placeholder.
    """
    name = name_of(target)
    if name not in _declared and name.partition("::")[0] in OURS:
        importlib.import_module("ascend_passes.npu")  # declares what is missing here
    return _declared.get(name, NOTHING)


def name_of(target: Any) -> str:
    """`namespace::name` of an operator without the overload; "" for other targets."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target._qualified_op_name)
    return target if isinstance(target, str) and "::" in target else ""
