"""Gemma's RMSNorm, which scales by one plus its weight, becomes `npu_gemma_rms_norm`.

Gemma 3 splits heads, moves them in front of the tokens and normalises each head. The norm works row
by row, so it commutes with the transposition; the operator wants contiguous rows, which lie in
front of it."""

from ascend_passes import Rule, npu

from ._rows import Gain, Moved, RowsOrHeads, normalized


def pattern(x: RowsOrHeads, gamma: Gain, *, eps: float, moved: Moved):
    rows = x.permute(0, 2, 1, 3) if moved else x
    return (normalized(rows, eps) * (1.0 + gamma.float())).to(x.dtype)


def replacement(x, gamma, *, eps, moved):
    y, _ = npu.npu_gemma_rms_norm(x, gamma, eps)
    return y.permute(0, 2, 1, 3) if moved else y


SIZES = [{"H": 64, "B": 2, "S": 5, "N": 4}, {"H": 2560}]
# Layers with equal weights share one plus the weight.
rule = Rule(pattern, replacement, examples=SIZES, shares=True, tolerance=2)
