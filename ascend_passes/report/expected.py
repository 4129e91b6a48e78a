"""What option `expect` may ask of a model that has these reports."""

from __future__ import annotations

from collections.abc import Collection

from ascend_passes.report.families import fusions
from ascend_passes.report.value import Report


def expected_counts(reports: Collection[Report]) -> dict[str, int]:
    """Rule, recognition or pass -> how often it fires in each of the graphs; `expect` is held
    against every graph.

    One that does not fire in all graphs cannot be asked for.
    """
    counts = [fusions(report) for report in reports]
    names = sorted({name for count in counts for name in count})
    least = {name: min(count.get(name, 0) for count in counts) for name in names}
    return {name: count for name, count in least.items() if count}


def expected_text(counts: dict[str, int]) -> str:
    """The option's value, `add_rms_norm=4,rms_norm=9`."""
    return ",".join(f"{name}={count}" for name, count in counts.items())
