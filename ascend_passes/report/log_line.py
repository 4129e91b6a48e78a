"""A report in one line, for logs."""

from __future__ import annotations

from ascend_passes.report.families import left_groups, left_in
from ascend_passes.report.text import kept_text, totals
from ascend_passes.report.value import Report

BOOKKEEPING = ("normalize",)
"""Stages that count nodes rather than fusions."""
SHOWN = 3
"""Reasons that one line names."""


def line_of_report(report: Report) -> str:
    """`4 add_rms_norm, 9 rms_norm; kernels 553 -> 60; left 1 add_rms_norm: why; in 0.1 s`."""
    parts = [fused_text(report)]
    parts += [f"kernels {totals(report)}"] if report.before else []
    parts += [f"kept {kept_text(report)}"] if report.kept else []
    groups = left_groups(left_in(report))
    if groups:
        reasons = [f"{group.count} {group.family}: {group.reason}" for group in groups]
        more = f", and {len(reasons) - SHOWN} more reasons" if len(reasons) > SHOWN else ""
        parts.append(f"left {', '.join(reasons[:SHOWN])}{more}")
    parts += [f"{one.subject}: {one.chosen}, {one.reason}" for one in report.decisions]
    parts += [f"error: {error.splitlines()[0]}" for error in report.errors]
    parts.append(f"in {sum(report.seconds.values()):.3f} s")
    return "; ".join(parts)


def fused_text(report: Report) -> str:
    """`4 add_rms_norm, 1 hoist_rope`."""
    fired = report.fired.items()
    found = [f"{count} {name}" for name, count in fired if count and name not in BOOKKEEPING]
    return ", ".join(found) or "nothing fired"
