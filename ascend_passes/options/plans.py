"""Plans: one Dynamo graph serves several compiled variants, and the token count of a call picks
one."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

from ascend_passes.options.types import OptionError, shown
from ascend_passes.options.value import Options

UNBOUNDED = 2**31 - 1
"""Upper end of the last plan: no token count reaches it."""
MOST_DIGITS = 10
"""A size has fewer."""
FINE_STEP, COARSE_STEP, COARSE_FROM = 8, 16, 256
"""Captured sizes are 1, 2, 4, then every 8 below 256 and every 16 from there on: vLLM 0.32's
default list (`_set_cudagraph_sizes` in its `config/vllm.py`)."""


@dataclass(frozen=True)
class Plan:
    """A compiled variant for `low <= tokens <= high`."""

    name: str
    low: int
    high: int
    flashcomm: bool = False
    matmul_collective: bool = False
    prefetch: bool = False

    def holds(self, tokens: int) -> bool:
        """Whether a call with this many tokens belongs to the plan."""
        return self.low <= tokens <= self.high


def capture_sizes(options: Options) -> tuple[int, ...]:
    """The token counts that are captured, ascending; a call is padded up to the next one.

    Raises:
        OptionError: a size that is not a positive whole number.
    """
    if not options.capture_sizes:
        fine = range(FINE_STEP, COARSE_FROM, FINE_STEP)
        coarse = range(COARSE_FROM, options.capture_limit + 1, COARSE_STEP)
        return tuple(n for n in (1, 2, 4, *fine, *coarse) if n <= options.capture_limit)
    words = [word.strip() for word in options.capture_sizes.split(",")]
    if not all(word.isdecimal() and len(word) < MOST_DIGITS and int(word) > 0 for word in words):
        raise OptionError(
            f"option 'capture_sizes' is {shown(options.capture_sizes)}; write positive whole "
            "numbers with commas between them, 1,2,4,8."
        )
    return tuple(sorted({int(word) for word in words if int(word) <= options.capture_limit}))


def padded_size(tokens: int, sizes: tuple[int, ...]) -> int | None:
    """The smallest captured size that holds `tokens`, or None where none does."""
    index = bisect.bisect_left(sizes, tokens)
    return sizes[index] if index < len(sizes) else None


def plans(options: Options) -> tuple[Plan, ...]:
    """The plans under these options, in ascending order of tokens and without gaps.

    Where `flashcomm_tokens` is -1 FlashComm is tried from one token on, and the cost model says
    from where it pays: see `divided`.
    """
    above, fused_above = max(0, options.flashcomm_tokens), options.matmul_reduce_scatter_tokens
    edges = {1}
    if options.flashcomm:
        edges.add(above + 1)
        if options.matmul_reduce_scatter:
            edges.add(max(above, fused_above) + 1)
    if options.matmul_all_reduce and (fused_above < above or not options.flashcomm):
        edges.add(fused_above + 1)
    if options.prefetch:
        edges.add(options.prefetch_tokens)
    starts = sorted(edge for edge in edges if 1 <= edge < UNBOUNDED)
    return tuple(
        variant(options, low, high, above)
        for low, high in zip(starts, [*(start - 1 for start in starts[1:]), UNBOUNDED], strict=True)
    )


def variant(options: Options, low: int, high: int, flashcomm_above: int) -> Plan:
    """The plan for one range of tokens; the range lies on one side of every threshold."""
    flashcomm = options.flashcomm and low > flashcomm_above
    asked = options.matmul_reduce_scatter if flashcomm else options.matmul_all_reduce
    fused = asked and low > options.matmul_reduce_scatter_tokens
    prefetch = options.prefetch and high < options.prefetch_tokens
    return Plan(
        name="large prefill" if flashcomm or fused else "small",
        low=low,
        high=high,
        flashcomm=flashcomm,
        matmul_collective=fused,
        prefetch=prefetch,
    )


def divided(choices: tuple[Plan, ...], plan: Plan, at: int) -> tuple[Plan, ...]:
    """The plans with one of them cut in two, of which the second begins at `at` tokens."""
    parts = (replace(plan, high=at - 1), replace(plan, low=at))
    return tuple(part for one in choices for part in (parts if one == plan else (one,)))


def pick(choices: tuple[Plan, ...], tokens: int) -> Plan:
    """The plan that holds `tokens`; a call without any takes the first."""
    return next(plan for plan in choices if plan.holds(max(1, tokens)))


def said_plan(plan: Plan | None) -> str:
    """The token counts of a plan in words; "" where one graph serves all."""
    if plan is None or (plan.low <= 1 and plan.high >= UNBOUNDED):
        return ""
    return (
        f"{plan.low} tokens and more"
        if plan.high >= UNBOUNDED
        else f"{plan.low} to {plan.high} tokens"
    )
