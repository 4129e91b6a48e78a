"""A legal call of each operator, and calls that break one documented limit each."""

from __future__ import annotations

import torch

A2, A3, A5 = "Ascend910B", "Ascend910_93", "Ascend910_95"
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
I8, I32, I64 = torch.int8, torch.int32, torch.int64


def t(*shape, dtype=BF16):
    return torch.empty(shape, dtype=dtype, device="meta")


GROUP = "limits"
QUANT = {
    "x1_scale": t(64, 1, dtype=F32),
    "x2_scale": t(1, 32, dtype=F32),
    "comm_mode": "aiv",
    "y_dtype": 15,
}
INTEGERS = {
    "input": t(64, 512, dtype=I8),
    "x2": t(512, 32, dtype=I8),
    "hcom": GROUP,
    "world_size": 2,
}
PAIR = {"input": t(64, 512), "x2": t(512, 32), "hcom": GROUP, "world_size": 2}
APART = {
    "x": [t(4, 8)] * 2,
    "weight": [t(8, 16), t(8, 6)],
    "group_list": None,
    "split_item": 0,
    "group_type": -1,
}
INT8_APART = {
    **APART,
    "x": [t(4, 8, dtype=I8)] * 2,
    "weight": [t(8, 16, dtype=I8)] * 2,
    "scale": [t(16)] * 2,
    "output_dtype": 15,
}
NORMED = "matmul_allreduce_add_rmsnorm"
LEGAL = {
    NORMED: {
        "x1": t(8, 24),
        "x2": t(32, 24),
        "residual": t(8, 32),
        "gamma": t(32),
        "groupTp": "any",
        "tpRankSize": 2,
        "tpRankId": 1,
        "epsilon": 1e-6,
        "isTransB": True,
        "isGatherAddOut": True,
    },
    "npu_rms_norm": {"input": t(4, 8), "gamma": t(8)},
    "npu_gemma_rms_norm": {"input": t(4, 8), "gamma": t(8)},
    "npu_add_rms_norm": {"x1": t(4, 8), "x2": t(4, 8), "gamma": t(8)},
    "npu_add_rms_norm_cast": {"x1": t(4, 8), "x2": t(4, 8), "gamma": t(8)},
    "npu_add_rms_norm_quant": {
        "x1": t(4, 8),
        "x2": t(4, 8),
        "gamma": t(8),
        "scales1": t(8),
        "zero_points1": t(8),
    },
    "npu_add_rms_norm_dynamic_quant": {"x1": t(4, 8), "x2": t(4, 8), "gamma": t(8)},
    "npu_rms_norm_quant": {
        "x": t(4, 8),
        "gamma": t(8),
        "beta": t(8),
        "scale": t(1),
        "offset": t(1, dtype=I8),
    },
    "npu_rms_norm_quant_v2": {"x": t(4, 8), "gamma": t(8), "scale": t(8)},
    "npu_quantize": {
        "input": t(4, 8),
        "scales": t(8),
        "zero_points": None,
        "dtype": 1,
        "axis": -1,
    },
    "npu_dynamic_quant": {"input": t(4, 8)},
    "npu_trans_quant_param": {"scale": t(8, dtype=F32)},
    "npu_quant_matmul": {
        "x1": t(4, 64, dtype=I8),
        "x2": t(64, 32, dtype=I8),
        "scale": t(32, dtype=F32),
        "output_dtype": 15,
    },
    "npu_grouped_matmul": {
        "x": [t(4, 8)],
        "weight": [t(3, 8, 16)],
        "group_list": t(3, dtype=I64),
        "split_item": 3,
        "group_type": 0,
    },
    "npu_moe_gating_top_k_softmax": {"x": t(4, 8), "k": 2},
    "npu_moe_init_routing_v2": {
        "x": t(4, 8),
        "expert_idx": t(4, 2, dtype=I32),
        "active_num": 8,
        "expert_num": 7,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
        "active_expert_range": [0, 7],
    },
    "npu_moe_finalize_routing": {
        "expanded_permuted_rows": t(8, 16),
        **dict.fromkeys(("skip1", "skip2", "bias", "export_for_source_row")),
        "scales": t(4, 2),
        "expanded_src_to_dst_row": t(8, dtype=I32),
    },
    "npu_swiglu": {"input": t(4, 8)},
    "npu_swiglu_quant": {"x": t(4, 8), "quant_mode": 1},
    "npu_dequant_swiglu_quant": {
        "x": t(4, 8, dtype=I32),
        "weight_scale": t(1, 8, dtype=F32),
        "activation_scale": t(4, dtype=F32),
        "quant_mode": 1,
    },
    "npu_rotary_mul": {"input": t(1, 4, 3, 64), "r1": t(1, 4, 1, 64), "r2": t(1, 4, 1, 64)},
    "npu_apply_rotary_pos_emb": {
        "query": t(4, 3, 128),
        "key": t(4, 1, 128),
        "cos": t(4, 1, 128),
        "sin": t(4, 1, 128),
        "layout": "TND",
    },
    "npu_mrope": {
        "positions": t(4, dtype=I64),
        "query": t(4, 192),
        "key": t(4, 64),
        "cos_sin_cache": t(50, 64),
        "head_size": 64,
    },
    "decode_attention": {
        "query": t(4, 2, 3, 64),
        "key": t(4, 2, 9, 64),
        "value": t(4, 2, 9, 64),
        "mask": t(4, 1, 1, 9),
    },
    "npu_prefetch": {"input": t(4, 8), "dependency": t(1), "max_size": 64},
    "npu_scatter_pa_kv_cache": {
        "key": t(4, 2, 16),
        "value": t(4, 2, 16),
        "key_cache": t(3, 2, 8, 16),
        "value_cache": t(3, 2, 8, 16),
        "slot_mapping": t(4, dtype=I64),
    },
    "_npu_reshape_and_cache": {
        "key": t(4, 2, 16),
        "value": t(4, 2, 16),
        "key_cache": t(3, 8, 2, 16),
        "value_cache": t(3, 8, 2, 16),
        "slot_indices": t(4, dtype=I32),
    },
    "npu_mm_all_reduce_base": {"x1": t(64, 512), "x2": t(512, 32), "hcom": GROUP},
    "npu_mm_reduce_scatter_base": PAIR,
    "npu_all_gather_base_mm": PAIR,
    "npu_quant_mm_reduce_scatter": INTEGERS | QUANT,
    "npu_all_gather_quant_mm": INTEGERS | QUANT,
}
PA_NZ = "no PA_NZ cache of [4, 2, 16]"
NOT_INT8 = "is not int8"
ONE_DTYPE = "must be bfloat16"
STATIC = {"quant_mode": 0, "smooth_scales": t(1, 4, dtype=F32)}
# operator, changed arguments, the reasons that must come, and the chip if it is not A2
INT8_GROUPS = {
    "x": [t(4, 8, dtype=I8)],
    "weight": [t(3, 8, 16, dtype=I8)],
    "scale": [t(3, 16)],
    "per_token_scale": [t(4, dtype=F32)],
    "output_dtype": 15,
}
WIDE = 9632
"""Columns of which a row does not fit a vector core."""
BROKEN = [
    (NORMED, {}, [f"its library has kernels for {A2}, not for {A3}"], A3),
    (NORMED, {"tpRankSize": 3}, ["world size 3 is not one of (2, 4, 8)"]),
    (
        NORMED,
        {"x1": t(8, 24, dtype=F32)},
        [
            "x1 is float32 but must be float16 or bfloat16",
            *(f"{name} is bfloat16 but must be float32" for name in ("x2", "residual", "gamma")),
        ],
    ),
    (NORMED, {"gamma": t(32, dtype=F32)}, ["gamma is float32 but must be bfloat16"]),
    (NORMED, {"x1": t(1, 8, 24)}, ["x1 and x2 have 3 and 2 dims but must have 2"]),
    (NORMED, {"isTransB": False}, ["isTransB is False but its kernel reads the weight as [N, K]"]),
    (NORMED, {"x2": t(24, 32).T}, ["an operand is not contiguous"]),
    (NORMED, {"x1": t(8, 25)}, ["K is 25 and 24"]),
    (
        NORMED,
        {"residual": t(9, 32)},
        ["residual has shape [9, 32] but must have the product's, [8, 32]"],
    ),
    (NORMED, {"gamma": t(31)}, ["gamma has shape [31] but must have one number a column, [32]"]),
    (
        NORMED,
        {"x2": t(24, 24), "residual": t(8, 24), "gamma": t(24)},
        ["N = 24 is not a multiple of 16"],
    ),
    (
        NORMED,
        {"x2": t(WIDE, 24), "residual": t(8, WIDE), "gamma": t(WIDE)},
        [f"N = {WIDE} does not fit a vector core's local memory"],
    ),
    (
        NORMED,
        {"x1": t(1 << 22, 24), "residual": t(1 << 22, 32)},
        ["4194304 rows do not fit the group's window"],
    ),
    (
        "decode_attention",
        {"query": t(4, 2, 65, 64)},
        ["65 rows share a key head, over 64"],
    ),
    (
        "decode_attention",
        {"key": t(4, 2, 64, 9).mT},
        ["the columns of key do not lie side by side"],
    ),
    (
        "npu_rms_norm",
        {"input": t(4, 8, dtype=F64), "gamma": t(8, dtype=F32)},
        ["input is float64 but must be float16 or bfloat16 or float32"],
    ),
    (
        "npu_rms_norm",
        {"gamma": t(8, dtype=F16)},
        ["gamma is float16 but must be bfloat16 or float32"],
    ),
    ("npu_rms_norm", {"gamma": t(1, 4, 8)}, ["gamma has 3 dims but x has 2"]),
    (
        "npu_rms_norm",
        {"gamma": t(7)},
        ["gamma has shape [7] but must have the last dims of x, [8]"],
    ),
    ("npu_gemma_rms_norm", {"gamma": t(8, dtype=F32)}, [f"gamma is float32 but {ONE_DTYPE}"]),
    (
        "npu_gemma_rms_norm",
        {"input": t(4, 8, dtype=F64), "gamma": t(8, dtype=F64)},
        ["input is float64 but must be float16 or bfloat16 or float32"],
    ),
    (
        "npu_gemma_rms_norm",
        {"input": t(8, 4).T},
        ["input or gamma is not contiguous, which this operator needs"],
    ),
    ("npu_add_rms_norm", {"x2": t(4, 8, dtype=F16)}, [f"x2 is float16 but {ONE_DTYPE}"]),
    ("npu_add_rms_norm", {"gamma": t(8, dtype=F32)}, [f"gamma is float32 but {ONE_DTYPE}"]),
    (
        "npu_add_rms_norm",
        {"x2": t(1, 8)},
        ["x2 has shape [1, 8] but must have the shape of x1, [4, 8]"],
    ),
    (
        "npu_add_rms_norm_cast",
        {n: t(*s, dtype=F32) for n, s in {"x1": (4, 8), "x2": (4, 8), "gamma": (8,)}.items()},
        ["x1 is float32 but must be float16 or bfloat16"],
    ),
    (
        "npu_add_rms_norm_quant",
        {"scales1": t(8, dtype=F32)},
        [f"scales1 is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_add_rms_norm_quant",
        {"zero_points1": t(8, dtype=I32)},
        [f"zero_points1 is int32 but {ONE_DTYPE}"],
    ),
    (
        "npu_add_rms_norm_quant",
        {"scales1": t(1)},
        ["scales1 has shape [1] but must have the shape of gamma, [8]"],
    ),
    ("npu_add_rms_norm_quant", {"zero_points2": t(8)}, ["zero_points2 is given without scales2"]),
    ("npu_add_rms_norm_quant", {"axis": 1}, ["axis is 1 but only -1 is supported"]),
    ("npu_add_rms_norm_quant", {"dst_type": 3}, [f"dst_type 3 {NOT_INT8}"]),
    (
        "npu_add_rms_norm_dynamic_quant",
        {"x1": t(8), "x2": t(8)},
        ["x1 has 1 dims but must have 2 to 8"],
    ),
    ("npu_add_rms_norm_dynamic_quant", {"gamma": t(4, 8)}, ["gamma has 2 dims but must have 1"]),
    (
        "npu_add_rms_norm_dynamic_quant",
        {"beta": t(8, dtype=F32)},
        [f"beta is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_add_rms_norm_dynamic_quant",
        {"smooth_scale1": t(1)},
        ["smooth_scale1 has shape [1] but must have the shape of gamma, [8]"],
    ),
    (
        "npu_add_rms_norm_dynamic_quant",
        {"smooth_scale2": t(8)},
        ["smooth_scale2 is given without smooth_scale1 and without an output_mask"],
    ),
    (
        "npu_add_rms_norm_dynamic_quant",
        {"output_mask": [False, False]},
        ["output_mask asks for neither y1 nor y2"],
    ),
    ("npu_add_rms_norm_dynamic_quant", {"y_dtype": 16}, [f"y_dtype 16 {NOT_INT8}"]),
    (
        "npu_rms_norm_quant",
        {"x": t(4, 8, dtype=F32)}
        | {n: t(s, dtype=F32) for n, s in {"gamma": 8, "beta": 8, "scale": 1}.items()},
        ["x is float32 but must be float16 or bfloat16"],
    ),
    ("npu_rms_norm_quant", {"scale": t(1, dtype=F32)}, [f"scale is float32 but {ONE_DTYPE}"]),
    (
        "npu_rms_norm_quant",
        {"beta": t(7)},
        ["beta has shape [7] but must have the shape of gamma, [8]"],
    ),
    ("npu_rms_norm_quant", {"scale": t(8)}, ["scale has shape [8] but must have one element, [1]"]),
    ("npu_rms_norm_quant", {"offset": t(1)}, ["offset is bfloat16 but must be int8"]),
    (
        "npu_rms_norm_quant",
        {"offset": t(8, dtype=I8)},
        ["offset has shape [8] but must have one element, [1]"],
    ),
    ("npu_rms_norm_quant", {"dst_dtype": 3}, [f"dst_dtype 3 {NOT_INT8}"]),
    (
        "npu_rms_norm_quant_v2",
        {"x": t(4, 8, dtype=F64), "gamma": t(8, dtype=F64), "scale": t(8, dtype=F32)},
        ["x is float64 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_rms_norm_quant_v2", {"gamma": t(8, dtype=F32)}, [f"gamma is float32 but {ONE_DTYPE}"]),
    ("npu_rms_norm_quant_v2", {"gamma": t(4, 8)}, ["gamma has 2 dims but must have 1"]),
    (
        "npu_rms_norm_quant_v2",
        {"scale": t(8, dtype=F16)},
        ["scale is float16 but must be bfloat16 or float32"],
    ),
    (
        "npu_rms_norm_quant_v2",
        {"scale": t(2)},
        ["scale has shape [2] but must be one element or like gamma"],
    ),
    (
        "npu_rms_norm_quant_v2",
        {"offset": t(8, dtype=I64)},
        ["offset is int64 but must be int8 or int32 or bfloat16 or float32"],
    ),
    (
        "npu_rms_norm_quant_v2",
        {"offset": t(1)},
        ["offset has shape [1] but must have the shape of scale, [8]"],
    ),
    ("npu_rms_norm_quant_v2", {"dst_dtype": 3}, [f"dst_dtype 3 {NOT_INT8}"]),
    (
        "npu_quantize",
        {"input": t(4, 8, dtype=F64)},
        ["input is float64 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_quantize", {"dtype": 15}, ["dtype 15 is not int8, uint8 or int32"]),
    (
        "npu_quantize",
        {"scales": t(8, dtype=F16)},
        ["scales is float16 but must be float32 or bfloat16"],
    ),
    (
        "npu_quantize",
        {"scales": t(8, dtype=F32), "div_mode": False},
        [f"scales is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_quantize",
        {"dtype": 0, "div_mode": False},
        ["dtype 0 is not int8, the only one with div_mode False here"],
    ),
    ("npu_quantize", {"axis": 2}, ["axis 2 is outside an input of 2 dims"]),
    (
        "npu_quantize",
        {"scales": t(7)},
        ["scales has shape [7] but must be 1-D, of size 1 or of the axis"],
    ),
    (
        "npu_quantize",
        {"zero_points": t(8, dtype=F32)},
        ["zero_points is float32 but must be int8 or uint8 or int32 or bfloat16"],
    ),
    (
        "npu_quantize",
        {"zero_points": t(8, dtype=I32), "div_mode": False},
        [f"zero_points is int32 but {ONE_DTYPE}"],
    ),
    (
        "npu_quantize",
        {"zero_points": t(1)},
        ["zero_points has shape [1] but must have the shape of scales, [8]"],
    ),
    (
        "npu_dynamic_quant",
        {"input": t(4, 8, dtype=F32)},
        ["input is float32 but must be float16 or bfloat16"],
    ),
    ("npu_dynamic_quant", {"input": t(8)}, ["input has 1 dims but must have 2 or more"]),
    (
        "npu_dynamic_quant",
        {"quant_mode": "pertensor"},
        ["quant_mode is 'pertensor' but only 'pertoken' works on every device"],
    ),
    (
        "npu_dynamic_quant",
        {"group_index": t(2, dtype=I32)},
        ["group_index is given but is for experts only"],
    ),
    (
        "npu_dynamic_quant",
        {"dst_type_max": 1.0},
        ["dst_type_max is given but is for float8 results only"],
    ),
    ("npu_dynamic_quant", {"dst_type": 16}, [f"dst_type 16 {NOT_INT8}"]),
    (
        "npu_dynamic_quant",
        {"smooth_scales": t(8, dtype=F32)},
        [f"smooth_scales is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_dynamic_quant",
        {"smooth_scales": t(1)},
        ["smooth_scales has shape [1] but must have the last dim of input, [8]"],
    ),
    ("npu_trans_quant_param", {"scale": t(8)}, ["scale is bfloat16 but must be float32"]),
    (
        "npu_trans_quant_param",
        {"scale": t(2, 8, dtype=F32)},
        ["scale has shape [2, 8] but must be (n,) or (1, n)"],
    ),
    ("npu_trans_quant_param", {"round_mode": 2}, ["round_mode is 2, not 0 or 1"]),
    ("npu_trans_quant_param", {"offset": t(8)}, ["offset is bfloat16 but must be float32"]),
    (
        "npu_trans_quant_param",
        {"offset": t(1, dtype=F32)},
        ["offset has shape [1] but must have the shape of scale, [8]"],
    ),
    ("npu_quant_matmul", {"x1": t(4, 64)}, ["x1 is bfloat16 but must be int8"]),
    ("npu_quant_matmul", {"x2": t(64, 32, dtype=I32)}, ["x2 is int32 but must be int8"]),
    (
        "npu_quant_matmul",
        {"group_sizes": [1, 1, 32]},
        ["group_sizes is given but int8 operands do not take it"],
    ),
    (
        "npu_quant_matmul",
        {"x1": t(64, dtype=I8)},
        ["x1 and x2 have 1 and 2 dims but must have 2 to 6"],
    ),
    ("npu_quant_matmul", {"x1": t(4, 63, dtype=I8)}, ["x1 has K = 63 but x2 has K = 64"]),
    (
        "npu_quant_matmul",
        {"x1": t(4, 65536, dtype=I8), "x2": t(65536, 32, dtype=I8)},
        ["K = 65536 is over 65535"],
    ),
    (
        "npu_quant_matmul",
        {"x2": t(64, 65536, dtype=I8), "scale": t(1, dtype=F32)},
        ["N = 65536 is over 65535"],
    ),
    (
        "npu_quant_matmul",
        {"scale": t(31, dtype=F32)},
        ["scale has shape [31] but must be 1-D of size 1 or N = 32"],
    ),
    (
        "npu_quant_matmul",
        {"output_dtype": 3, "scale": t(32, dtype=I64)},
        ["output_dtype 3 is not int8, float16 or bfloat16"],
    ),
    (
        "npu_quant_matmul",
        {"scale": t(32, dtype=F16)},
        ["scale is float16 but must be float32 or bfloat16"],
    ),
    ("npu_quant_matmul", {"output_dtype": 5}, ["scale is float32 but must be int64"]),
    (
        "npu_quant_matmul",
        {"output_dtype": 5, "pertoken_scale": t(4, dtype=F32), "scale": t(32)},
        ["scale is bfloat16 but must be float32"],
    ),
    (
        "npu_quant_matmul",
        {"pertoken_scale": t(4)},
        ["pertoken_scale is bfloat16 but must be float32"],
    ),
    (
        "npu_quant_matmul",
        {"pertoken_scale": t(4, 1, dtype=F32)},
        ["pertoken_scale has shape [4, 1] but must be 1-D, one per row"],
    ),
    (
        "npu_quant_matmul",
        {"output_dtype": 1, "pertoken_scale": t(4, dtype=F32), "scale": t(32, dtype=I64)},
        ["pertoken_scale is given but an int8 result takes none"],
    ),
    (
        "npu_quant_matmul",
        {"bias": t(32, dtype=F16)},
        ["bias is float16 but must be int32 or bfloat16 or float32"],
    ),
    (
        "npu_quant_matmul",
        {"bias": t(1, 32, dtype=I32)},
        ["bias has shape [1, 32] but must be (N,) or (batch, 1, N), N = 32"],
    ),
    (
        "npu_quant_matmul",
        {"offset": t(32, dtype=F32)},
        ["offset is given but only an int8 result takes it"],
    ),
    (
        "npu_quant_matmul",
        {"offset": t(32), "output_dtype": 1, "scale": t(32, dtype=I64)},
        ["offset is bfloat16 but must be float32"],
    ),
    (
        "npu_quant_matmul",
        {"output_dtype": None, "scale": t(32, dtype=I64)},
        [f"int64 scales are for A2 and A3, not {A5}"],
        A5,
    ),
    (
        "npu_swiglu",
        {"input": t(4, 8, dtype=I8)},
        ["input is int8 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_swiglu", {"dim": 2}, ["dim 2 is outside an input of 2 dims"]),
    ("npu_swiglu", {"input": t(4, 7)}, ["dim -1 has size 7, which is not even"]),
    (
        "npu_swiglu_quant",
        {"x": t(4, 8, dtype=I32)},
        ["x is int32 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_swiglu_quant", {"x": t(8)}, ["x has 1 dim but must have 2 or more"]),
    ("npu_swiglu_quant", {"x": t(4, 7)}, ["dim -1 has size 7, which is not even"]),
    ("npu_swiglu_quant", {"x": t(4, 8194)}, ["the last dim of x is 8194, over 8192"]),
    (
        "npu_swiglu_quant",
        {"quant_mode": 2, "smooth_scales": t(1, dtype=F32)},
        ["quant_mode is 2, not 0 (static) or 1 (dynamic)"],
    ),
    (
        "npu_swiglu_quant",
        {"group_index": t(1, dtype=I32)},
        ["group_index is given but is for experts only"],
    ),
    ("npu_swiglu_quant", {"dst_type": torch.uint8}, ["dst_type torch.uint8 is not int8"]),
    ("npu_swiglu_quant", {"quant_mode": 0}, ["a static quantize needs smooth_scales"]),
    (
        "npu_swiglu_quant",
        {"offsets": t(1, dtype=F32)},
        ["offsets is given but a dynamic quantize takes none"],
    ),
    ("npu_swiglu_quant", STATIC | {"offsets": t(1)}, ["offsets is bfloat16 but must be float32"]),
    (
        "npu_swiglu_quant",
        STATIC | {"smooth_scales": t(4, dtype=F32)},
        ["smooth_scales has shape [4] but must be [1] or [1, 4]"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"x": t(4, 8, dtype=F32), "weight_scale": None, "activation_scale": None},
        ["x is float32 but must be int32 or float16 or bfloat16"],
    ),
    ("npu_dequant_swiglu_quant", {"x": t(1, 4, 8, dtype=I32)}, ["x has 3 dims but must have 2"]),
    (
        "npu_dequant_swiglu_quant",
        {"x": t(4, 7, dtype=I32), "weight_scale": t(7, dtype=F32)},
        ["dim -1 has size 7, which is not even"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"quant_mode": 3},
        ["quant_mode is 3, not 0 (static) or 1 (dynamic)"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"group_index": t(1, dtype=I64)},
        ["group_index is given but is for experts only"],
    ),
    ("npu_dequant_swiglu_quant", {"swiglu_mode": 1}, ["swiglu_mode is not 0, the plain SwiGLU"]),
    ("npu_dequant_swiglu_quant", {"dst_type": 0}, [f"dst_type 0 {NOT_INT8}"]),
    ("npu_dequant_swiglu_quant", {"round_mode": 4}, ["round_mode is 4, not 0 (half to even)"]),
    (
        "npu_dequant_swiglu_quant",
        {"activate_dim": 0},
        ["activate_dim is 0 but only the last dim is supported"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"weight_scale": None},
        ["weight_scale goes with int32 x, and x is torch.int32"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"activation_scale": t(4)},
        ["activation_scale is bfloat16 but must be float32"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"activation_scale": t(5, dtype=F32)},
        ["activation_scale has shape [5] but must be (4,) or (4, 1)"],
    ),
    (
        "npu_dequant_swiglu_quant",
        {"quant_offset": t(1, 4)},
        ["quant_offset is given but a dynamic quantize takes none"],
    ),
    (
        "npu_rotary_mul",
        {
            "input": t(1, 4, 3, 64, dtype=I8),
            "r1": t(1, 4, 1, 64, dtype=I8),
            "r2": t(1, 4, 1, 64, dtype=I8),
        },
        ["input is int8 but must be float16 or bfloat16 or float32"],
    ),
    (
        "npu_rotary_mul",
        {"rotary_mode": "quarter"},
        ["rotary_mode is 'quarter', not 'half' or 'interleave'"],
    ),
    (
        "npu_rotary_mul",
        {"rotate": t(64, 64)},
        ["rotate is given but the documentation does not say what it does"],
    ),
    (
        "npu_rotary_mul",
        {"r1": t(4, 1, 64)},
        [
            "r1 has 3 dims but must have 4",
            "r1 has shape [4, 1, 64], which does not broadcast to [1, 4, 3, 64]",
        ],
    ),
    ("npu_rotary_mul", {"r2": t(1, 4, 1, 64, dtype=F32)}, [f"r2 is float32 but {ONE_DTYPE}"]),
    (
        "npu_rotary_mul",
        {"r2": t(1, 4, 1, 32)},
        ["r2 has shape [1, 4, 1, 32], which does not broadcast to [1, 4, 3, 64]"],
    ),
    (
        "npu_rotary_mul",
        {"input": t(1, 4, 3, 896), "r1": t(1, 4, 1, 896), "r2": t(1, 4, 1, 896)},
        ["the head size 896 is not below 896"],
    ),
    (
        "npu_rotary_mul",
        {"input": t(1, 4, 3, 63), "r1": t(1, 4, 1, 63), "r2": t(1, 4, 1, 63)},
        ["the head size 63 is not even"],
    ),
    ("npu_apply_rotary_pos_emb", {}, [f"the limits on {A5} are not known here"], A5),
    ("npu_apply_rotary_pos_emb", {"layout": "BNSD"}, ["layout is 'BNSD', not 'BSND' or 'TND'"]),
    (
        "npu_apply_rotary_pos_emb",
        {"rotary_mode": "interleave"},
        ["rotary_mode is 'interleave' but only 'half' is supported"],
    ),
    (
        "npu_apply_rotary_pos_emb",
        {n: t(4, 1, 128, dtype=I8) for n in ("query", "key", "cos", "sin")},
        ["query is int8 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_apply_rotary_pos_emb", {"cos": t(4, 128)}, ["cos has 2 dims but layout TND has 3"]),
    (
        "npu_apply_rotary_pos_emb",
        {"sin": t(4, 1, 128, dtype=F32)},
        [f"sin is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_apply_rotary_pos_emb",
        {n: t(4, 1, 96) for n in ("query", "key", "cos", "sin")},
        ["the head size is 96 but must be 64 or 128"],
    ),
    (
        "npu_apply_rotary_pos_emb",
        {"cos": t(4, 3, 128)},
        ["cos has shape [4, 3, 128] but must have [4, 1, 128]"],
    ),
    (
        "npu_mrope",
        {n: t(4, 64, dtype=I8) for n in ("query", "key", "cos_sin_cache")},
        ["query is int8 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_mrope", {"key": t(4, 1, 64)}, ["key has 3 dims but must have 2"]),
    ("npu_mrope", {"key": t(4, 64, dtype=F32)}, [f"key is float32 but {ONE_DTYPE}"]),
    ("npu_mrope", {"positions": t(4)}, ["positions is bfloat16 but must be int32 or int64"]),
    ("npu_mrope", {"mrope_section": [16, 8, 8]}, ["positions has 1 dims but must have 2"]),
    (
        "npu_mrope",
        {"rotary_mode": "quarter"},
        ["rotary_mode is 'quarter', not 'half' or 'interleave'"],
    ),
    ("npu_mrope", {"cos_sin_cache": t(50, 48)}, ["the rotary size is 48, no multiple of 32"]),
    ("npu_mrope", {"cos_sin_cache": t(50, 96)}, ["the rotary size 96 is over the head size 64"]),
    ("npu_mrope", {"query": t(4, 100)}, ["query has 100 columns, no multiple of 64"]),
    ("npu_prefetch", {"max_size": 0}, ["max_size is 0 but must be positive"]),
    ("npu_prefetch", {"offset": 64}, ["offset is 64 but input has 64 bytes"]),
    (
        "npu_prefetch",
        {"dependency": None},
        ["no dependency is given, so nothing orders the prefetch in a graph"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"slot_mapping": t(4)},
        ["slots is bfloat16 but must be int32 or int64"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {
            n: t(*s, dtype=F32)
            for n, s in {
                "key": (4, 2, 16),
                "value": (4, 2, 16),
                "key_cache": (3, 4, 8, 8),
                "value_cache": (3, 4, 8, 8),
            }.items()
        },
        ["key is float32 but must be float16 or bfloat16 or int8"],
    ),
    ("npu_scatter_pa_kv_cache", {"value": t(4, 32)}, ["value has 2 dims but must have 3"]),
    (
        "npu_scatter_pa_kv_cache",
        {"value_cache": t(3, 8, 16)},
        ["value_cache has 3 dims but must have 4"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"value": t(4, 2, 16, dtype=F16), "value_cache": t(3, 2, 8, 16, dtype=F16)},
        [f"value is float16 but {ONE_DTYPE}"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"value_cache": t(3, 2, 8, 16, dtype=F16)},
        [f"value_cache is float16 but {ONE_DTYPE}"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"slot_mapping": t(5, dtype=I64)},
        ["slots has shape [5] but must have one entry per token"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"seq_lens": t(2, dtype=I64)},
        ["seq_lens is given but compressed caches are not supported"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"cache_mode": "BNSD"},
        ["cache_mode is 'BNSD', not 'PA_NZ' or 'Norm'"],
    ),
    (
        "npu_scatter_pa_kv_cache",
        {"key_cache": t(3, 4, 8, 8)},
        [f"key_cache has shape [3, 4, 8, 8], {PA_NZ}"],
    ),
    (
        "_npu_reshape_and_cache",
        {"slot_indices": t(4, dtype=I64)},
        ["slot_indices is int64 but must be int32"],
    ),
    (
        "_npu_reshape_and_cache",
        {"key_cache": t(3, 8, 4, 8)},
        ["key_cache ends in [4, 8] but key has [2, 16] per token"],
    ),
    ("npu_mm_all_reduce_base", {}, [f"the operator exists on {A2}, not on {A3}"], A3),
    (
        "npu_mm_all_reduce_base",
        {"hcom": "nobody"},
        ["the size of group 'nobody' is not known here"],
    ),
    (
        "npu_mm_all_reduce_base",
        {"x1": t(64, 512, dtype=F32), "x2": t(512, 32, dtype=F32)},
        ["x1 is float32 but must be float16 or bfloat16 or int8"],
    ),
    ("npu_mm_all_reduce_base", {"x2": t(512, 32, dtype=F16)}, [f"x2 is float16 but {ONE_DTYPE}"]),
    ("npu_mm_all_reduce_base", {"x1": t(1, 1, 64, 512)}, ["x1 has 4 dims but must have 2 or 3"]),
    ("npu_mm_all_reduce_base", {"reduce_op": "max"}, ["reduce_op is 'max', not 'sum'"]),
    (
        "npu_mm_all_reduce_base",
        {"dequant_scale": t(32)},
        ["dequant_scale goes with int8 operands, and only with them"],
    ),
    (
        "npu_mm_all_reduce_base",
        {"antiquant_scale": t(32)},
        ["antiquant_scale is given but quantized weights and transport are not supported here"],
    ),
    ("npu_mm_all_reduce_base", {"comm_quant_mode": 1}, ["comm_quant_mode is not 0"]),
    ("npu_mm_all_reduce_base", {"group_sizes": [1]}, ["group_sizes is given but is for float8"]),
    (
        "npu_mm_all_reduce_base",
        {"pertoken_scale": t(64, dtype=F32)},
        ["pertoken_scale is given without dequant_scale"],
    ),
    (
        "npu_mm_all_reduce_base",
        {
            "x1": t(64, 512, dtype=I8),
            "x2": t(512, 32, dtype=I8),
            "dequant_scale": t(32),
            "pertoken_scale": t(64),
        },
        ["pertoken_scale is bfloat16 but must be float32"],
    ),
    ("npu_mm_all_reduce_base", {"bias": t(32, dtype=I32)}, [f"bias is int32 but {ONE_DTYPE}"]),
    (
        "npu_mm_all_reduce_base",
        {"bias": t(1)},
        ["bias has shape [1] but must have the N of x2, [32]"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"input": t(65, 512)},
        ["M = 65 does not divide by world size 2"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"world_size": 16},
        [f"world size 16 is not one of (2, 4, 8) on {A2}"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"x2": t(512)},
        ["the operands have 2 and 1 dims but must be matrices"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"x2": t(511, 32)},
        ["the left K is 512 but the right K is 511"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"input": t(64, 255), "x2": t(255, 32)},
        ["K = 255 is outside [256, 65535)"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"input": t(64, 65535), "x2": t(65535, 32)},
        ["K = 65535 is outside [256, 65535)"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"comm_mode": "host"},
        ["comm_mode is 'host', not 'ai_cpu' or 'aiv'"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"input": INTEGERS["input"], "x2": INTEGERS["x2"], "x2_scale": QUANT["x2_scale"]},
        ["input is int8 but must be float16 or bfloat16"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"x2": t(512, 32, dtype=F16)},
        [f"x2 is float16 but {ONE_DTYPE}"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"input": t(512, 64).T},
        ["input is not contiguous; the operator does not take a transposed one"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"x1_scale": t(64, 1, dtype=F32)},
        ["x1_scale is given but belongs to int8 operands"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        INTEGERS | {"comm_mode": "aiv"},
        ["x2_scale is missing for int8 operands"],
    ),
    (
        "npu_mm_reduce_scatter_base",
        {"bias": t(32)},
        ["bias is given but a nonzero bias is not supported"],
    ),
    ("npu_mm_reduce_scatter_base", {"reduce_op": "max"}, ["reduce_op is 'max', not 'sum'"]),
    (
        "npu_all_gather_base_mm",
        {"bias": t(32)},
        ["bias is given but a nonzero bias is not supported"],
    ),
    (
        "npu_all_gather_base_mm",
        {"gather_index": 1},
        ["gather_index is not 0; only the input can be gathered"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"world_size": 2, "input": t(65, 512, dtype=I8), "x1_scale": t(65, 1, dtype=F32)},
        ["M = 65 does not divide by world size 2"],
    ),
    ("npu_quant_mm_reduce_scatter", {"input": t(64, 512)}, ["input is bfloat16 but must be int8"]),
    ("npu_quant_mm_reduce_scatter", {"x2": t(512, 32)}, ["x2 is bfloat16 but must be int8"]),
    (
        "npu_quant_mm_reduce_scatter",
        {"comm_mode": None},
        ["comm_mode is None but int8 needs 'aiv'"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"y_dtype": None},
        ["y_dtype is None, not float16 or bfloat16"],
    ),
    ("npu_quant_mm_reduce_scatter", {"x1_scale": None}, ["x1_scale and x2_scale are both needed"]),
    (
        "npu_quant_mm_reduce_scatter",
        {"x1_scale": t(64, 1)},
        ["x1_scale is bfloat16 but must be float32"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"x1_scale": t(64, dtype=F32)},
        ["x1_scale has shape [64] but must have (M, 1), [64, 1]"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"x2_scale": t(1, 32)},
        ["x2_scale is bfloat16 but must be float32 or int64"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"x2_scale": t(32, dtype=F32)},
        ["x2_scale has shape [32] but must have (1, N), [1, 32]"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"quant_scale": t(1, dtype=F32)},
        ["quant_scale is given but quantized results are not supported"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"amax_output": True},
        ["amax_output is asked for but not supported"],
    ),
    (
        "npu_quant_mm_reduce_scatter",
        {"input": t(512, 64, dtype=I8).T},
        ["input is not contiguous; the operator does not take a transposed one"],
    ),
    ("npu_quant_mm_reduce_scatter", {"reduce_op": "max"}, ["reduce_op is 'max', not 'sum'"]),
    (
        "npu_quant_mm_reduce_scatter",
        {"bias": t(32, dtype=I32)},
        ["bias is int32 but must be float16 or bfloat16 or float32"],
    ),
    ("npu_all_gather_quant_mm", {"bias": t(32)}, ["bias is given but A2 and A3 take none here"]),
    (
        "npu_all_gather_quant_mm",
        {"gather_index": 1},
        ["gather_index is not 0; only the input can be gathered"],
    ),
    ("npu_grouped_matmul", {}, [f"the limits on {A5} are not known here"], A5),
    ("npu_grouped_matmul", {"x": [t(4, 8)] * 2}, ["x is 2 tensors but must be one"]),
    (
        "npu_grouped_matmul",
        {"scale": [t(16)]},
        ["scale is given but the factors are not quantized"],
    ),
    (
        "npu_grouped_matmul",
        {"offset": [t(16)]},
        ["offset is given but has no reference here"],
    ),
    (
        "npu_grouped_matmul",
        {"x": [t(4, 8, dtype=I8)]},
        [
            "weight is bfloat16 but must be int8",
            "output_dtype is None, not 15 (bfloat16) or 5 (float16)",
            "scale is 0 tensors but must be one beside an int8 x",
            "per_token_scale is 0 tensors but must be one beside an int8 x",
        ],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_GROUPS, "output_dtype": 5},
        ["scale is bfloat16 but must be float32"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_GROUPS, "per_token_scale": [t(3, dtype=F32)]},
        ["per_token_scale has shape [3] but must have one of each row, [4]"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_GROUPS, "scale": [t(16)], "per_token_scale": [t(4)]},
        [
            "per_token_scale is bfloat16 but must be float32",
            "scale has shape [16] but must have one of each group's columns, [3, 16]",
        ],
    ),
    (
        "npu_grouped_matmul",
        {"activation_input": [t(16)]},
        ["activation_input is given but is reserved"],
    ),
    ("npu_grouped_matmul", {"bias": [t(16)]}, ["bias is given but has no reference here"]),
    (
        "npu_grouped_matmul",
        {"tuning_config": [4]},
        ["tuning_config is given but has no reference here"],
    ),
    (
        "npu_grouped_matmul",
        {"act_type": 5},
        ["act_type is given but only a per-token quantized x takes it"],
    ),
    ("npu_grouped_matmul", {"split_item": 0}, ["split_item is not 2 or 3, one result"]),
    (
        "npu_grouped_matmul",
        {"group_type": 2},
        ["group_type is not 0, groups of rows, or -1, products apart"],
    ),
    (
        "npu_grouped_matmul",
        {**APART, "split_item": 1},
        ["split_item is not 0, a result for each weight"],
    ),
    (
        "npu_grouped_matmul",
        {**APART, "group_list": t(2, dtype=I64)},
        ["group_list is given but nothing is grouped"],
    ),
    *(
        (
            "npu_grouped_matmul",
            {**APART, name: given},
            [f"{name} is given but the factors are not quantized"],
        )
        for name, given in (("scale", [t(16)]), ("per_token_scale", [t(4)]), ("output_dtype", 15))
    ),
    (
        "npu_grouped_matmul",
        {**APART, "bias": [t(16)] * 2},
        ["bias is given but has no reference here"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "per_token_scale": [t(4, dtype=F32)] * 2},
        ["per_token_scale is given but is for single tensors only"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "output_dtype": None},
        ["output_dtype is None, not 15 (bfloat16) or 5 (float16)"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "scale": [t(16, dtype=F32)] * 2},
        ["scale is float32 but must be bfloat16"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "output_dtype": 5},
        ["scale is bfloat16 but must be float32"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "scale": None},
        ["scale is 0 tensors but weight is 2"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "scale": [t(16), t(1)]},
        ["scale has shape [1] but must have one of each column, [16]"],
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "bias": [t(16, dtype=F32)] * 2},
        ["bias is float32 but must be int32"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**INT8_APART, "bias": [t(16, dtype=I32)]},
        ["bias is 1 tensors but weight is 2"],
    ),
    (
        "npu_grouped_matmul",
        {**APART, "x": [t(4, 8)]},
        ["1 x and 2 weights are not as many, 1 to 128"],
    ),
    (
        "npu_grouped_matmul",
        {**APART, "weight": [t(8, 16), t(6, 8).T]},
        ["some weights are transposed and some are not"],
    ),
    (
        "npu_grouped_matmul",
        {**APART, "weight": [t(8, 16, dtype=F16)] * 2},
        ["weight is float16 but must be bfloat16"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**APART, "x": [t(4, 8, dtype=F32)] * 2, "weight": [t(8, 16, dtype=F32)] * 2},
        ["x is float32 but must be float16 or bfloat16 or int8"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**APART, "x": [t(1, 4, 8)] * 2},
        ["x and weight have 3 and 2 dims but must have 2"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {**APART, "weight": [t(8, 32)[:, ::2]] * 2},
        ["a weight is neither contiguous nor the transpose of one that is"] * 2,
    ),
    (
        "npu_grouped_matmul",
        {"x": [t(4, 8, dtype=F64)], "weight": [t(3, 8, 16, dtype=F64)]},
        ["x is float64 but must be float16 or bfloat16 or float32"],
    ),
    (
        "npu_grouped_matmul",
        {"weight": [t(3, 8, 16, dtype=F32)]},
        [f"weight is float32 but {ONE_DTYPE}"],
    ),
    (
        "npu_grouped_matmul",
        {"x": [t(1, 4, 8)]},
        ["x and weight have 3 and 3 dims but must have 2 and 3"],
    ),
    (
        "npu_grouped_matmul",
        {"x": [t(8, 4).T]},
        ["x is transposed; the operator takes only a transposed weight"],
    ),
    ("npu_grouped_matmul", {"x": [t(4, 9)]}, ["x has K = 9 but weight has K = 8"]),
    (
        "npu_grouped_matmul",
        {"weight": [t(3, 8, 65536)]},
        ["N = 65536 is not below 65536"],
    ),
    ("npu_grouped_matmul", {"group_list": None}, ["group_list is missing"]),
    (
        "npu_grouped_matmul",
        {"group_list_type": 2},
        ["group_list_type is 2, not 0 (ends) or 1 (counts)"],
    ),
    (
        "npu_grouped_matmul",
        {"weight": [t(1025, 8, 16)], "group_list": t(1025, dtype=I64)},
        ["there are 1025 groups, more than 1024"],
    ),
    (
        "npu_grouped_matmul",
        {"weight": [t(1, 8, 16)], "group_list": t(1, dtype=I64), "group_list_type": 1},
        ["group_list has one entry, which as a count is not taken"],
    ),
    (
        "npu_grouped_matmul",
        {"group_list": t(3, dtype=I32)},
        ["group_list is int32 but must be int64"],
    ),
    (
        "npu_grouped_matmul",
        {"group_list": t(4, dtype=I64)},
        ["group_list has shape [4] but must have an entry for each weight, [3]"],
    ),
    (
        "npu_moe_gating_top_k_softmax",
        {"finished": t(4, dtype=torch.bool)},
        ["finished is given but has no reference here"],
    ),
    (
        "npu_moe_gating_top_k_softmax",
        {"k": 9},
        ["k is 9 but x has 8 columns"],
    ),
    (
        "npu_moe_init_routing_v2",
        {"scale": t(4, dtype=F32)},
        ["scale is given but x is not quantized"],
    ),
    (
        "npu_moe_init_routing_v2",
        {"active_expert_range": [0, 4]},
        ["active_expert_range is [0, 4], not all 7 experts"],
    ),
    (
        "npu_moe_init_routing_v2",
        {"active_num": 7},
        ["active_num is 7 but there are 8 slots"],
    ),
    (
        "npu_moe_finalize_routing",
        {"skip1": t(4, 16)},
        ["skip1 is given but has no reference here"],
    ),
    ("npu_moe_finalize_routing", {"scales": None}, ["there are no scales"]),
]
