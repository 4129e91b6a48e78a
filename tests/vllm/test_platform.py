"""Engines on a platform with what an Ascend platform plugs in: VLLM_COMPILE, capture, async."""

from __future__ import annotations

from typing import Any

import pytest

from tests.slow import ASKED, slow
from tests.vllm.reference import error
from tests.vllm.test_models import LAYERS, OURS, PROMPTS, ROUNDING, case, counts, model_lines

PLAIN = {"mode": 0, "cudagraph_mode": "NONE"}
"""Neither compiled nor captured; without the second, vLLM captures what it does not compile."""
SPECULATIVE = {"method": "draft_model", "num_speculative_tokens": 2}
EXPECT = {"ascend_passes": {"expect": {"add_rms_norm": 2 * LAYERS}}}
WHOLE = {**OURS, "splitting_ops": []}
DECODE = {**WHOLE, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4]}
RANGES = {**WHOLE, "cudagraph_mode": "NONE"}
NOT_CAPTURED = {**OURS, "cudagraph_mode": "NONE"}
PREFETCH = {"additional_config": {"ascend_passes": {"prefetch_mlp": True, "prefetch_tokens": 16}}}

LOST = {"ascend_passes": {"expect": {"add_rms_norm": 99}}}
FLASHCOMM = {
    "flashcomm": True,
    "flashcomm_tokens": 4,
    "matmul_reduce_scatter_tokens": 4,
    "passes": "-sequence_parallel.cost",
}
"""Acts on the ten tokens of the prompts, though it does not pay at these sizes."""
WIDE, WIDER = ("qwen3", "bf16"), {"hidden_size": 512, "num_attention_heads": 8}
"""With two ranks every product is as deep as the operators with a collective ask for: 256."""
MODES = {
    "captured plain": "NONE",
    "stock": "STOCK_TORCH_COMPILE",
    "once": "DYNAMO_TRACE_ONCE",
    "pieces": "VLLM_COMPILE",
    "uncaptured pieces": "VLLM_COMPILE",
    "decode": "VLLM_COMPILE",
    "decode async": "VLLM_COMPILE",
    "ranges": "VLLM_COMPILE",
    "draft": "VLLM_COMPILE",
}
if ASKED:
    MODES["draft once"] = "DYNAMO_TRACE_ONCE"
DRAFTS = [name for name in MODES if "draft" in name]


@pytest.fixture(scope="module")
def results(session: Any, checkpoints: Any, tmp_path_factory: Any) -> dict[str, Any]:
    dump = tmp_path_factory.mktemp("dump")
    dumped = {"ascend_passes": {**EXPECT["ascend_passes"], "dump": str(dump)}}
    path, draft = checkpoints(), checkpoints("qwen3", num_hidden_layers=1)
    speculative = {"speculative_config": {**SPECULATIVE, "model": draft}}
    cases = [
        case("plain", path, "f32", PLAIN),
        case("stock", path, "f32", {**OURS, "mode": 1}, additional_config=EXPECT),
        case("once", path, "f32", {**OURS, "mode": 2}, additional_config=EXPECT),
        case("pieces", path, "f32", NOT_CAPTURED, additional_config=dumped),
        case("uncaptured pieces", path, "f32", {**OURS, "cudagraph_mode": "PIECEWISE"}),
        case("decode", path, "f32", DECODE, async_scheduling=False),
        case("captured plain", path, "f32", {"mode": 0}, async_scheduling=True),
        case("decode async", path, "f32", DECODE, async_scheduling=True),
        case("draft", path, "f32", RANGES, **speculative, additional_config=EXPECT),
        case("lost", path, "f32", NOT_CAPTURED, additional_config=LOST),
        case("ranges", path, "f32", RANGES, **PREFETCH),
        case("dynamic", checkpoints("qwen3", "bf16", "dynamic"), "bf16", DECODE),
        case("wide plain", checkpoints(*WIDE, **WIDER), "bf16", PLAIN),
    ]
    if ASKED:
        once = {**OURS, "mode": 2}
        cases.append(case("draft once", path, "f32", once, **speculative, additional_config=EXPECT))
    for one in cases:
        one["profile"] = one["name"] in ("captured plain", "decode async")
    found: dict[str, Any] = session(cases, ASCEND_TEST_PLATFORM="1")
    found["pieces"]["dumped"] = len(list(dump.glob("*.after.py")))
    return found


@pytest.mark.parametrize("name", MODES)
def test_tokens_are_those_of_plain_vllm(results: dict[str, Any], name: str) -> None:
    assert "tokens" in results[name], results[name]["error"]
    assert results[name]["tokens"] == results["plain"]["tokens"]
    assert results[name]["mode"] == MODES[name]


@pytest.mark.parametrize("name", [name for name, mode in MODES.items() if mode != "NONE"])
def test_every_mode_compiles_with_our_rules(results: dict[str, Any], name: str) -> None:
    """Each model, each variant of it and each range of tokens has a line, and all norms in it."""
    lines = model_lines(results[name]["log"])
    assert lines
    for line in lines:
        layers = 1 if "(draft_model)" in line else LAYERS
        assert counts(line)["add_rms_norm"] == 2 * layers


@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_model_is_a_model_of_its_own(results: dict[str, Any], name: str) -> None:
    """It has half the layers: with the main model's expectation it would stop the start."""
    lines = model_lines(results[name]["log"])
    assert ["(draft_model)" in line for line in lines] == [False, True]


def test_a_lost_fusion_stops_the_start(results: dict[str, Any]) -> None:
    assert f"add_rms_norm fired {2 * LAYERS} times, expected 99" in results["lost"]["error"]


def test_async_scheduling_gets_no_host_sync_from_us(results: dict[str, Any]) -> None:
    assert results["decode async"]["fused"] > 0, "the profile has seen our operators"
    assert results["captured plain"]["fused"] == 0
    assert results["decode async"]["reads"] <= results["captured plain"]["reads"]


def test_pieces_are_compiled_each_on_its_own(results: dict[str, Any]) -> None:
    reports = results["pieces"]["reports"]
    assert len(reports) == LAYERS + 1
    assert not any(report["errors"] for report in reports)
    assert results["pieces"]["dumped"] == LAYERS + 1
    assert sum(report["fired"].get("add_rms_norm", 0) for report in reports) == 2 * LAYERS
    (line,) = model_lines(results["pieces"]["log"])
    assert f"1 to 128 tokens, {LAYERS + 1} pieces: " in line


def test_a_decode_step_is_captured_once_and_replayed(results: dict[str, Any]) -> None:
    assert results["decode"]["cudagraph_mode"] == "FULL_DECODE_ONLY"
    assert results["decode"]["captured"] == 1, "one batch size: the two prompts decode together"
    assert results["plain"]["captured"] == 0
    assert results["uncaptured pieces"]["captured"] == 0


def test_async_scheduling_as_asked(results: dict[str, Any]) -> None:
    names = ("decode", "captured plain", "decode async")
    assert [results[name]["async"] for name in names] == [False, True, True]


def test_ranges_end_where_plans_end(results: dict[str, Any]) -> None:
    assert len(results["ranges"]["reports"]) == 2
    log = "\n".join(results["ranges"]["log"])
    assert "1 to 15 tokens" in log and "16 to 128 tokens" in log
    fired = [report["fired"].get("prefetch", 0) for report in results["ranges"]["reports"]]
    assert fired == [2 * LAYERS, 0], "gate_up and down of each layer, in steps of few tokens"


def test_quantized_decode_is_captured(results: dict[str, Any]) -> None:
    report = results["dynamic"]["reports"][0]
    assert report["fired"]["add_rms_norm_dynamic_quant"] == 2 * LAYERS - 1
    assert results["dynamic"]["captured"] == 1


@pytest.fixture(scope="module")
def ranks(session: Any, checkpoints: Any) -> dict[str, Any]:
    path, two = checkpoints(), {"tensor_parallel_size": 2}
    wide = checkpoints(*WIDE, **WIDER)
    flashcomm = {"additional_config": {"ascend_passes": FLASHCOMM}}
    cases = [
        case("flashcomm", path, "f32", DECODE, **two, **flashcomm),
        case("wide", wide, "bf16", RANGES, **two, **flashcomm),
    ]
    if ASKED:  # of one rank they are run always, and what two do is in the two above
        dynamic = checkpoints("qwen3", "bf16", "dynamic")
        cases += [
            case("plain", path, "f32", PLAIN, **two),
            case("decode", path, "f32", DECODE, **two),
            case("two", path, "f32", RANGES, **two),
            case("once", path, "f32", {**OURS, "mode": 2}, **two),
            case("stock", path, "f32", {**OURS, "mode": 1}, **two),
            case("captured plain", path, "f32", {"mode": 0}, **two),
            case("dynamic plain", dynamic, "bf16", PLAIN, **two),
            case("dynamic", dynamic, "bf16", RANGES, **two),
        ]
    return session(cases, ASCEND_TEST_PLATFORM="1", VLLM_CPU_OMP_THREADS_BIND="0|1")


SLOW = [pytest.param(name, marks=slow) for name in ("decode", "two", "once", "stock")]
COMPILED = ["flashcomm", *SLOW]
PLAIN_TOO = [pytest.param(name, marks=slow) for name in ("plain", "captured plain")]


@pytest.mark.parametrize("name", [*COMPILED, *PLAIN_TOO])
def test_two_ranks_decode_the_tokens_of_one(
    results: dict[str, Any], ranks: dict[str, Any], name: str
) -> None:
    assert "tokens" in ranks[name], ranks[name]["error"]
    assert ranks[name]["tokens"] == results["plain"]["tokens"]


@pytest.mark.parametrize("name", COMPILED)
def test_two_ranks_fuse_as_one(ranks: dict[str, Any], name: str) -> None:
    lines = model_lines(ranks[name]["log"])
    assert len(lines) >= 2, "one for each rank"
    assert {counts(line)["add_rms_norm"] for line in lines} == {2 * LAYERS}


def test_flashcomm_acts_in_a_range_of_its_own(ranks: dict[str, Any]) -> None:
    """Each layer has two sums over ranks, and the embedding one. Steps of few tokens are captured
    beside it."""
    assert ranks["flashcomm"]["cudagraph_mode"] == "FULL_DECODE_ONLY"
    lines = model_lines(ranks["flashcomm"]["log"])
    small = [counts(line) for line in lines if "1 to 4 tokens" in line]
    large = [counts(line) for line in lines if "5 to 128 tokens" in line]
    assert len(small) == len(large) == 2
    assert not any("sequence_parallel" in one for one in small)
    assert [one["sequence_parallel"] for one in large] == [2 * LAYERS + 1] * 2


@slow
def test_quantized_ranks_fuse_and_stay_close(ranks: dict[str, Any], checkpoints: Any) -> None:
    lines = model_lines(ranks["dynamic"]["log"])
    fused = [counts(line)["add_rms_norm_dynamic_quant"] for line in lines]
    assert fused == [2 * LAYERS - 1] * 2
    path = checkpoints("qwen3", "bf16", "dynamic")
    ours, plain = (error(path, PROMPTS, ranks[name]) for name in ("dynamic", "dynamic plain"))
    assert ours < ROUNDING * plain


def test_matmuls_fuse_with_their_collectives(
    results: dict[str, Any], ranks: dict[str, Any], checkpoints: Any
) -> None:
    """In each layer two products are scattered, and two read gathered rows."""
    lines = model_lines(ranks["wide"]["log"])
    large = [counts(line) for line in lines if "5 to 128 tokens" in line]
    assert [one["matmul_collective"] for one in large] == [4 * LAYERS] * 2
    path = checkpoints(*WIDE, **WIDER)
    found = (ranks["wide"], results["wide plain"])
    ours, plain = (error(path, PROMPTS, one) for one in found)
    assert 0 < ours < ROUNDING * plain
