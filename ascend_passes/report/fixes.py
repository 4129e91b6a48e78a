"""What a user can do about a refusal, by the reason that it gives."""

from __future__ import annotations

import re

FIXES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(reason), fix)
    for reason, fix in (
        (
            r"has \d+ users, \d+ outside",
            "keep the value inside for the fused operator alone, or "
            "return it from a module of its own",
        ),
        (r"float32 but|but gamma is|dtype", "load the model in one dtype: `--dtype bfloat16`"),
        (r"scale has|numbers, the operator wants", "quantize with one scale a tensor or a channel"),
        (r"zero point", "quantize symmetrically, or keep the zero points as int8"),
        (r"is not contiguous", "call .contiguous() in front of the operator"),
        (
            r"world size",
            "start with a number of ranks that the operator takes, or turn the fusion "
            "off: option matmul_reduce_scatter=0",
        ),
        (r"size of group .* is not known", "call torch.distributed.init_process_group first"),
        (
            r"over 1 MiB",
            "none: computing it in each step costs less memory",
        ),
        (
            r"returns the new value and leaves its input",
            "write into the cache with copy_ or index_copy_, or let the caller give it up",
        ),
        (r"another input shares the memory", "give each cache memory of its own"),
        (r"no gain is estimated", "set another profile or threshold, if you know better"),
        (r"moves? from step to step", "keep weights and caches in the memory they have"),
        (r"host", "keep the number on the device, or as an input of the graph"),
    )
)
"""Pattern in a reason -> what to do; the first that is found counts."""


def fix_for(reason: str) -> str:
    """What a user can do; "" where nothing is known."""
    return next((fix for pattern, fix in FIXES if pattern.search(reason)), "")
