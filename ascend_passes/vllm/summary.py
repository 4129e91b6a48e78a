"""A report in vLLM's log: one line for each model, the whole report on request."""

from __future__ import annotations

from vllm.logger import init_logger

from ascend_passes.report.value import Report, group

logger = init_logger("vllm.ascend_passes")
BOOKKEEPING = ("normalize",)
"""Stages that count nodes rather than fusions."""
SHOWN = 3
"""Reasons for misses that one line names."""


def line(report: Report) -> str:
    """`4 add_rms_norm_quant, 1 hoist_rope; 2 misses: RULE: why; in 0.120 s`."""
    fired = [
        f"{count} {name}"
        for name, count in report.fired.items()
        if count and name not in BOOKKEEPING
    ]
    parts = [", ".join(fired) or "nothing fired"]
    if report.misses:
        reasons = [
            f"{len(found)} {rule}: {reason}"
            for (rule, reason), found in group(report.misses).items()
        ]
        more = f"; and {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
        parts.append(f"{len(report.misses)} misses: {'; '.join(reasons[:SHOWN])}{more}")
    parts += [f"{one.subject}: {one.chosen}, {one.reason}" for one in report.decisions]
    parts += [f"error: {error.splitlines()[0]}" for error in report.errors]
    parts.append(f"in {sum(report.seconds.values()):.3f} s")
    return "; ".join(parts)


def log(report: Report, model: str, explain: bool) -> None:
    """Write the line, and the report where it is asked for.

    Args:
        report: what the passes did.
        model: the model and, where there is one, the piece and the range of tokens.
        explain: whether the whole report is to be written.
    """
    write = logger.warning if report.errors else logger.info
    write("ascend_dense: %s: %s", model, line(report))
    if explain:
        logger.info("ascend_dense: %s:\n%s", model, report)
