"""Names of the passes: what option `passes` switches, and what a report counts beside rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ascend_passes.compile.stages import STAGES
from ascend_passes.frontends import experts, quantized_decomposed, vllm_translations
from ascend_passes.report.expected import FORMS

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sequence_parallel": (
            "cancel_chunk",
            "chunk_replicated",
            "cost",
            "gather_early",
            "pad_early",
            "sink_add",
            "sink_columns",
            "sink_norm",
            "sink_pointwise",
            "sink_quantize",
            "sink_view",
        ),
        "experts": tuple(experts.STEPS),
        "matmul_collective": ("all_gather", "all_reduce", "reduce_scatter"),
    }
)
"""Pass -> its parts, each of which can be switched alone: `-sequence_parallel.cost`."""
WITHOUT_COUNT = ("recognize", "fuse", "experts")
"""Passes that a report counts by rules and operators."""


def switchable() -> tuple[str, ...]:
    """What `passes` may name: every pass, and every part as `pass.part`."""
    parts = (f"{name}.{part}" for name, found in PARTS.items() for part in found)
    return (*dict.fromkeys(stage.name for stage in STAGES), *parts)


def countable_names() -> tuple[str, ...]:
    """What `expect` may name beside rules: passes, what three of them translate, families."""
    tables = (quantized_decomposed.TRANSLATIONS, vllm_translations.TRANSLATIONS)
    translated = (name.replace("::", "_").lstrip("_") for table in tables for name in table)
    stages = (stage.name for stage in STAGES if stage.name not in WITHOUT_COUNT)
    return (*stages, *translated, *experts.STEPS, *FORMS)
