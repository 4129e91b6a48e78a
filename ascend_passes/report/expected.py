"""What option `expect` may ask of a model that has these reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ascend_passes.report.families import fusions
from ascend_passes.report.value import Report


@dataclass(frozen=True)
class Forms:
    """What is one fusion to a user, however a model and those before us spell it."""

    counts: tuple[str, ...]
    """Names of `Report.fired`."""
    operators: tuple[str, ...] = ()
    """`namespace::name`; in the traced graph somebody has fused there before us."""


FORMS: Mapping[str, Forms] = MappingProxyType(
    {
        "add_rms_norm_quant": Forms(
            ("add_rms_norm_quant", "add_rms_norm_dynamic_quant"),
            ("npu::npu_add_rms_norm_quant", "npu::npu_add_rms_norm_dynamic_quant"),
        ),
        "rotary_embedding": Forms(
            ("C_rotary_embedding", "vllm_npu_rotary_embedding"), ("vllm::qkv_rmsnorm_rope",)
        ),
    }
)
"""Name in `expect` -> all that it counts; every other name counts itself alone."""


def reached(report: Report, name: str) -> int:
    """How often a graph has what `expect` names: fused by us, or there already."""
    fired = {**report.spellings, **report.fired}
    forms = FORMS.get(name, Forms((name,)))
    return found_before(report, forms) + sum(fired.get(form, 0) for form in forms.counts)


def found_before(report: Report, forms: Forms) -> int:
    """How often the traced graph has a fusion that somebody made before us."""
    return sum(kernel.operator in forms.operators for kernel in report.before)


def found_before_text(report: Report) -> str:
    """What others fused before us, `5 add_rms_norm_quant, 3 rotary_embedding`; "" for nothing."""
    counts = {name: found_before(report, forms) for name, forms in FORMS.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


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
