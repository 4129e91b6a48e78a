"""Engines on a platform with what an Ascend platform plugs in: VLLM_COMPILE, capture, async."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm.test_models import LAYERS, case

PLAIN = {"mode": 0, "cudagraph_mode": "NONE"}
"""Neither compiled nor captured; without the second, vLLM captures what it does not compile."""
OURS = {"backend": "ascend_dense"}
WHOLE = {**OURS, "splitting_ops": []}
DECODE = {**WHOLE, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4]}
RANGES = {**WHOLE, "cudagraph_mode": "NONE"}
PREFETCH = {"additional_config": {"ascend_passes": {"prefetch_mlp": True, "prefetch_tokens": 16}}}


@pytest.fixture(scope="module")
def results(session: Any, checkpoints: Any) -> dict[str, Any]:
    path = checkpoints()
    cases = [
        case("plain", path, "f32", PLAIN),
        case("pieces", path, "f32", {**OURS, "cudagraph_mode": "NONE"}),
        case("uncaptured pieces", path, "f32", {**OURS, "cudagraph_mode": "PIECEWISE"}),
        case("decode", path, "f32", DECODE, async_scheduling=False),
        case("captured plain", path, "f32", {"mode": 0}),
        case("decode async", path, "f32", DECODE, async_scheduling=True),
        case("ranges", path, "f32", RANGES, **PREFETCH),
        case("dynamic", checkpoints("qwen3", "bf16", "dynamic"), "bf16", DECODE),
    ]
    return session(cases, ASCEND_TEST_PLATFORM="1")


@pytest.mark.parametrize(
    "name", ["captured plain", "pieces", "uncaptured pieces", "decode", "decode async", "ranges"]
)
def test_tokens_are_those_of_plain_vllm(results: dict[str, Any], name: str) -> None:
    assert "tokens" in results[name], results[name]["error"]
    assert results[name]["tokens"] == results["plain"]["tokens"]
    assert results[name]["mode"] == ("NONE" if name == "captured plain" else "VLLM_COMPILE")


def test_pieces_are_compiled_each_on_its_own(results: dict[str, Any]) -> None:
    reports = results["pieces"]["reports"]
    assert len(reports) == LAYERS + 1
    assert not any(report["errors"] for report in reports)
    assert sum(report["fired"].get("add_rms_norm", 0) for report in reports) == 2 * LAYERS


def test_a_decode_step_is_captured_once_and_replayed(results: dict[str, Any]) -> None:
    assert results["decode"]["cudagraph_mode"] == "FULL_DECODE_ONLY"
    assert results["decode"]["captured"] == 1, "one batch size: the two prompts decode together"
    assert results["plain"]["captured"] == 0
    assert results["uncaptured pieces"]["captured"] == 0


def test_async_scheduling_as_asked(results: dict[str, Any]) -> None:
    assert [results[name]["async"] for name in ("decode", "decode async")] == [False, True]


def test_ranges_end_where_plans_end(results: dict[str, Any]) -> None:
    assert len(results["ranges"]["reports"]) == 2
    log = "\n".join(results["ranges"]["log"])
    assert "1 to 15 tokens" in log and "16 to 128 tokens" in log


def test_quantized_decode_is_captured(results: dict[str, Any]) -> None:
    report = results["dynamic"]["reports"][0]
    assert report["fired"]["add_rms_norm_dynamic_quant"] == 2 * LAYERS - 1
    assert results["dynamic"]["captured"] == 1


@pytest.fixture(scope="module")
def ranks(session: Any, checkpoints: Any) -> dict[str, Any]:
    path, two = checkpoints(), {"tensor_parallel_size": 2}
    flashcomm = {"ascend_passes": {"flashcomm": True, "flashcomm_tokens": 4}}
    cases = [
        case("plain", path, "f32", PLAIN, **two),
        case("two", path, "f32", RANGES, **two),
        case("flashcomm", path, "f32", RANGES, **two, additional_config=flashcomm),
        case("decode", path, "f32", DECODE, **two),
        case("captured plain", path, "f32", {"mode": 0}, **two),
    ]
    return session(cases, ASCEND_TEST_PLATFORM="1", VLLM_CPU_OMP_THREADS_BIND="0|1")


@pytest.mark.parametrize("name", ["two", "flashcomm", "decode", "captured plain"])
def test_two_ranks_decode_the_tokens_of_one(
    results: dict[str, Any], ranks: dict[str, Any], name: str
) -> None:
    assert "tokens" in ranks[name], ranks[name]["error"]
    assert ranks[name]["tokens"] == ranks["plain"]["tokens"]
    assert ranks[name]["tokens"] == results["plain"]["tokens"]


@pytest.mark.parametrize("name", ["two", "flashcomm", "decode"])
def test_two_ranks_fuse_as_one(ranks: dict[str, Any], name: str) -> None:
    assert f"{2 * LAYERS} add_rms_norm" in "\n".join(ranks[name]["log"])


def test_flashcomm_has_a_range_of_its_own(ranks: dict[str, Any]) -> None:
    """Whether it acts there is the cost model's decision; a small model gains nothing."""
    assert any("5 to 128 tokens" in line for line in ranks["flashcomm"]["log"])
