"""What the plugin makes of a configuration, and what it says of one that asks in vain."""

from __future__ import annotations

from typing import Any

import pytest

OURS = {"backend": "ascend_dense"}
SECTION = "ascend_passes"


def case(compilation: dict[str, Any], options: Any = None, **more: Any) -> dict[str, Any]:
    additional = {} if options is None else {"additional_config": {SECTION: options}}
    engine = {"compilation_config": compilation, **additional, **more.pop("engine", {})}
    return {"engine": {"dtype": "float32", **engine}, **more}


WARNINGS = {
    "capture option": (case(OURS, {"cudagraph_mode": "FULL"}), "into the compilation config"),
    "executor": (
        case({"mode": 2, "backend": "inductor"}, {"executor": "inductor"}),
        'leave "executor" away',
    ),
    "cost model": (
        case(
            {"mode": 2, "backend": "inductor"},
            {"flashcomm": True, "flashcomm_tokens": -1},
            engine={"tensor_parallel_size": 2},
        ),
        "write the number of tokens",
    ),
    "foreign backend": (case({"mode": 2, "backend": "aot_eager"}, {}), "runs no passes of ours"),
    "eager": (case({"mode": 2, "backend": "eager"}, {}), "runs no passes"),
    "one rank": (case(OURS, {"flashcomm": True}), "tensor_parallel_size is 1"),
    "enforce eager": (case(OURS, engine={"enforce_eager": True}), "leave --enforce-eager away"),
    "stock on a CPU": (case({**OURS, "mode": 1}), '"mode": "DYNAMO_TRACE_ONCE" instead'),
    "from the environment": (
        case(OURS, environment={"VLLM_ASCEND_ENABLE_FLASHCOMM1": "1"}),
        "tensor_parallel_size is 1",
    ),
}
"""Configurations that ask in vain -> a part of the sentence that names the fix."""
ERRORS = {
    "option": (case(OURS, {"flashcom": True}), "Did you mean 'flashcomm'?"),
    "backend": (case({"mode": 2, "backend": "ascend_dens"}), "Did you mean 'ascend_dense'?"),
    "rule": (case(OURS, {"rules": "-add_rms_nrom"}), "Did you mean 'add_rms_norm'?"),
    "pass": (case(OURS, {"passes": "-prefech"}), "Did you mean 'prefetch'?"),
    "sign": (case(OURS, {"rules": "add_rms_norm"}), "must start with + or -"),
    "section": (case(OURS, "flashcomm"), "must be a dictionary of options"),
    "variable": (
        case(OURS, environment={"ASCEND_PASSES_FLASHCOMM_TOKENS": "many"}),
        "ASCEND_PASSES_FLASHCOMM_TOKENS is 'many'; write a whole number",
    ),
}
"""Configurations that stop the start -> a part of the error."""
PLATFORM_WARNINGS = {
    "pieces": (case({**OURS, "cudagraph_mode": "PIECEWISE"}), "run uncaptured on this platform"),
    "split FlashComm": (
        case(
            {**OURS, "splitting_ops": ["vllm::unified_attention_with_output"]},
            {"flashcomm": True},
            engine={"tensor_parallel_size": 2},
        ),
        'write "splitting_ops": []',
    ),
    "no compilation": (case({**OURS, "mode": 0}, {}), '"cudagraph_mode": "FULL_DECODE_ONLY"'),
}
QUIET = {
    "plain": case({"mode": 0}),
    "whole": case(OURS),
    "switches": case(OURS, {"rules": "-*,+add_rms_norm", "passes": "-sequence_parallel.cost"}),
}


def named(cases: dict[str, Any], model: str) -> list[dict[str, Any]]:
    parts = {name: one[0] if isinstance(one, tuple) else one for name, one in cases.items()}
    return [
        {**one, "name": name, "engine": {"model": model, **one["engine"]}}
        for name, one in parts.items()
    ]


@pytest.fixture(scope="module")
def settled(session: Any, checkpoints: Any) -> dict[str, Any]:
    cases = named({**WARNINGS, **ERRORS, **QUIET}, checkpoints())
    return session(cases, program="settled.py")


@pytest.fixture(scope="module")
def on_platform(session: Any, checkpoints: Any) -> dict[str, Any]:
    ends = {
        "flashcomm": True,
        "flashcomm_tokens": 64,
        "prefetch_mlp": True,
        "prefetch_tokens": 2,
    }
    cases = {
        **PLATFORM_WARNINGS,
        "ends": case(OURS, ends, engine={"tensor_parallel_size": 2}),
        "one token": case(OURS, {"prefetch_mlp": True, "prefetch_tokens": 2}),
        "environment": case(
            OURS,
            environment={
                "VLLM_ASCEND_ENABLE_PREFETCH_MLP": "1",
                "ASCEND_PASSES_PREFETCH_TOKENS": "16",
            },
        ),
    }
    return session(named(cases, checkpoints()), program="settled.py", ASCEND_TEST_PLATFORM="1")


def warned(result: dict[str, Any]) -> str:
    return "\n".join(line for line in result["log"] if "WARNING" in line)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_asked_in_vain_is_said_with_the_fix(settled: dict[str, Any], name: str) -> None:
    assert "error" not in settled[name]
    assert WARNINGS[name][1] in warned(settled[name])


@pytest.mark.parametrize("name", PLATFORM_WARNINGS)
def test_a_platform_with_a_compiler_warns_as_well(on_platform: dict[str, Any], name: str) -> None:
    assert "error" not in on_platform[name]
    assert PLATFORM_WARNINGS[name][1] in warned(on_platform[name])


@pytest.mark.parametrize("name", ERRORS)
def test_a_misspelling_stops_the_start_in_vllms_own_style(
    settled: dict[str, Any], name: str
) -> None:
    error = settled[name]["error"]
    assert error.startswith("ValidationError: 1 validation error for ")
    assert ERRORS[name][1] in error


@pytest.mark.parametrize("name", QUIET)
def test_what_works_does_not_warn(settled: dict[str, Any], name: str) -> None:
    assert "error" not in settled[name]
    assert warned(settled[name]) == ""


def test_ranges_end_where_plans_end(on_platform: dict[str, Any]) -> None:
    """Largest batch 128; vLLM has no range for one token alone."""
    assert on_platform["ends"]["range_ends"] == [64, 128]
    assert on_platform["ends"]["splitting_ops"] == []
    assert on_platform["one token"]["range_ends"] == [128]


def test_options_come_from_the_environment(on_platform: dict[str, Any]) -> None:
    assert on_platform["environment"]["range_ends"] == [15, 128]
