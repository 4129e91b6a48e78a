"""vLLM's compile cache in mode VLLM_COMPILE, over several processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ascend_passes.engine.registry import helper_files, pattern_folders
from tests.vllm.test_models import LAYERS, case

COMPILATION = {"backend": "ascend_dense", "splitting_ops": [], "cudagraph_mode": "NONE"}


@pytest.fixture(scope="module")
def starts(
    session: Any, checkpoints: Any, cache_root: Any, tmp_path_factory: Any
) -> list[dict[str, Any]]:
    """A start from an empty cache, the same again, and one with a changed rule of the user's."""
    cache, folder = cache_root(), tmp_path_factory.mktemp("rules")
    (ours,) = pattern_folders()
    for shared in helper_files(ours):
        shutil.copy(shared, folder)
    rule = Path(shutil.copy(ours / "add_rms_norm.py", folder / "users_own.py"))
    options = {"ascend_passes": {"rule_path": str(folder), "rules": "-add_rms_norm"}}
    one = case("start", checkpoints(), "f32", COMPILATION, additional_config=options)

    def start() -> dict[str, Any]:
        variables = {"ASCEND_TEST_PLATFORM": "1", "VLLM_CACHE_ROOT": cache}
        result: dict[str, Any] = session([one], **variables)["start"]
        return result

    results = [start(), start()]
    rule.write_text(rule.read_text() + "\n# Another rule, as far as a cache can tell.\n")
    return [*results, start()]


def test_a_second_process_loads_what_the_first_compiled(starts: list[dict[str, Any]]) -> None:
    assert [start["loaded"] for start in starts[:2]] == [0, 1]


def test_a_changed_rule_is_another_cache_entry(starts: list[dict[str, Any]]) -> None:
    assert starts[2]["loaded"] == 0


def test_what_is_loaded_is_rewritten_like_what_was_traced(starts: list[dict[str, Any]]) -> None:
    for start in starts:
        (report,) = start["reports"]
        assert report["fired"]["users_own"] == 2 * LAYERS
        assert start["tokens"] == starts[0]["tokens"]
