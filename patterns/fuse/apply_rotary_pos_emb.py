"""The rotations of queries and keys by the same tables become one `npu_apply_rotary_pos_emb`.

The kernel rotates in place, so both must be values that nobody else reads; the engine checks it.
Limits on A2 and A3: head size 64 or 128, equal dtypes, tokens in front of heads."""

from typing import Annotated

from torch import Tensor

from ascend_passes import Rule, npu

Queries = Annotated[Tensor, "B S N D"]
Keys = Annotated[Tensor, "B S M D"]
Table = Annotated[Tensor, "X S 1 D"]


def pattern(query: Queries, key: Keys, cos: Table, sin: Table):
    return (
        npu.npu_rotary_mul(query, cos, sin, "half"),
        npu.npu_rotary_mul(key, cos, sin, "half"),
    )


def replacement(query, key, cos, sin):
    return npu.npu_apply_rotary_pos_emb(query, key, cos, sin, "BSND", "half")


SIZES = [{"B": 2, "S": 5, "N": 4, "M": 2, "D": 64, "X": 2}]
rule = Rule(pattern, replacement, examples=SIZES)
