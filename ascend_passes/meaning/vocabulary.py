"""The operators that a piece may consist of: those whose meaning in float64 is what it is in any
other precision."""

from __future__ import annotations

import operator

import torch

aten = torch.ops.aten
CASTS = frozenset({aten._to_copy.default, torch.ops.prims.convert_element_type.default})
LAYOUT = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
        *(aten.expand.default, aten.permute.default, aten.transpose.int, aten.t.default),
        *(aten.slice.Tensor, aten.select.int, aten.clone.default, aten.alias.default),
        *(aten.detach.default, aten.lift_fresh_copy.default, aten.diag_embed.default),
        *(aten.diagonal.default, aten.repeat.default, aten.split.Tensor, aten.unbind.int),
        *(aten.split_with_sizes.default, aten.chunk.default, aten.narrow.default),
        *(aten.view_as_complex.default, aten.view_as_real.default),
        *(operator.getitem, aten._conj.default, aten.real.default, aten.imag.default),
    }
)
"""They move values and compute none. `as_strided` is not among them: what it reads depends on how
its tensor lies, and a probe lies otherwise."""
MOVES = frozenset(
    {
        *(aten.cat.default, aten.stack.default, aten.slice_scatter.default, aten.roll.default),
        *(aten.select_scatter.default, aten.flip.default, aten.copy.default),
        *(aten.index_select.default, aten.complex.default),
    }
)
"""They put values together."""
MAKES = frozenset(
    {
        *(aten.full.default, aten.full_like.default, aten.ones_like.default, aten.zeros.default),
        *(aten.zeros_like.default, aten.ones.default, aten.eye.default, aten.empty_like.default),
        *(aten.empty.memory_format, aten.new_empty.default, aten.scalar_tensor.default),
        *(aten.new_empty_strided.default, aten.empty_strided.default, aten.new_zeros.default),
        *(aten.new_ones.default, aten.new_full.default),
    }
)
SMOOTH = frozenset(
    {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar),
        *(aten.rsub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar),
        *(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar, aten.square.default),
        *(aten.neg.default, aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default),
        *(aten.exp.default, aten.exp2.default, aten.log.default, aten.log2.default),
        *(aten.expm1.default, aten.log1p.default, aten.erf.default, aten.tanh.default),
        *(aten.sigmoid.default, aten.silu.default, aten.gelu.default, aten.glu.default),
        *(aten.addcmul.default, aten.addcdiv.default, aten._softmax.default, aten.lerp.Scalar),
        *(aten.logaddexp.default, aten.softplus.default, aten.cos.default, aten.sin.default),
        *(aten.logsumexp.default, aten.log_sigmoid_forward.default, aten._log_softmax.default),
        *(aten.hypot.default, aten.polar.default, aten.lerp.Tensor),
    }
)
PIECEWISE = frozenset(
    {
        *(aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default, aten.clamp_max.default),
        *(aten.clamp_min.Tensor, aten.clamp_max.Tensor, aten.maximum.default, aten.abs.default),
        *(aten.minimum.default, aten.fmax.default, aten.fmin.default),
    }
)
"""Continuous, with a bend: probed on both sides of each number that they name."""
CLAMPS = PIECEWISE - {aten.abs.default}
"""They bound; the magnitudes of a row belong to its scale."""
REDUCTIONS = frozenset(
    {
        *(aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.sum.default),
        *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.var.correction),
        *(aten.bmm.default, aten.mm.default, aten._fused_rms_norm.default, aten.dot.default),
        *(aten.cumsum.default, aten.baddbmm.default, aten.norm.Scalar, aten.var.dim),
        *(aten.norm.ScalarOpt_dim_dtype, aten.mv.default, aten.addmm.default),
        *(aten._int_mm.default, aten.amax.default, aten.amin.default, aten.aminmax.default),
        *(aten.max.dim, aten.min.dim, aten.max.default),
    }
)
ROUNDINGS = frozenset(
    {aten.round.default, aten.round.decimals, aten.floor.default, aten.ceil.default}
)
CHOICES = frozenset(
    {aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.eq.Scalar}
)
"""They keep a scale from being zero."""
SMOOTH_PIECES = CASTS | LAYOUT | MAKES | SMOOTH
ALLOWED = SMOOTH_PIECES | MOVES | PIECEWISE | REDUCTIONS
"""What float64 can be asked about."""
