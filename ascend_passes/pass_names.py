"""Names of the passes: what option `passes` switches, and what a report counts beside rules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ascend_passes.passes import quantized_decomposed, vllm_translations
from ascend_passes.pipeline import STAGES

BESIDE = ("find_zero_points", "fold_constants")
"""Passes that are no stage: one is a part of `quantized_decomposed`, one comes behind the last."""
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
        "matmul_collective": ("all_gather", "all_reduce", "reduce_scatter"),
    }
)
"""Pass -> its parts, each of which can be switched alone: `-sequence_parallel.cost`."""
WITHOUT_COUNT = ("recognize", "fuse", "find_zero_points")
"""Passes that a report counts by rules and operators."""


def switchable() -> tuple[str, ...]:
    """What `passes` may name: every pass, and every part as `pass.part`."""
    parts = (f"{name}.{part}" for name, found in PARTS.items() for part in found)
    return (*dict.fromkeys(stage.name for stage in STAGES), *BESIDE, *parts)


def counted() -> tuple[str, ...]:
    """What `expect` may name beside rules: passes, and the operators that two of them translate."""
    passes = (*(stage.name for stage in STAGES), *BESIDE)
    tables = (quantized_decomposed.TRANSLATIONS, vllm_translations.TRANSLATIONS)
    translated = (name.replace("::", "_").lstrip("_") for table in tables for name in table)
    return (*(name for name in passes if name not in WITHOUT_COUNT), *translated)
