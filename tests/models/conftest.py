"""What the models' tests compile, they compile under `validate`."""

from __future__ import annotations

import pytest

VALIDATED = ("test_counts", "test_compare", "test_gemma_accuracy", "test_experts")
"""Files whose models are small; the others compile nothing, or what these have."""
LARGE = "test_merged_static_w8a8_of_qwen3_32b"
"""Its graph has too many values to be run."""


@pytest.fixture(autouse=True)
def validated(request, monkeypatch):
    """Each rewrite and each stage is computed before and after; a difference is an error of the
    report, which no test here lets through."""
    file = request.node.path.stem
    if file in VALIDATED and request.node.originalname != LARGE:
        monkeypatch.setenv("ASCEND_PASSES_VALIDATE", "1")
