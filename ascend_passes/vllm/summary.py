"""A report in vLLM's log: one line for each model, the whole report on request."""

from __future__ import annotations

from vllm.logger import init_logger

from ascend_passes.report.expected import found_before_text
from ascend_passes.report.value import Report

logger = init_logger("vllm.ascend_passes")


def log(report: Report, model: str, explain: bool) -> None:
    """Write the line, and the report where it is asked for.

    Args:
        report: what the passes did.
        model: the model and, where there is one, the piece and the range of tokens.
        explain: whether the whole report is to be written.
    """
    write = logger.warning if report.errors else logger.info
    there = found_before_text(report)
    others = f"; fused before us: {there}" if there else ""
    write("ascend_dense: %s: %s%s", model, report.log_line(), others)
    if explain:
        logger.info("ascend_dense: %s:\n%s", model, report)
