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
    "captured sizes": (case(OURS, {"capture_sizes": "1,2"}), "its option capture_sizes '1,2'"),
    "capture limit": (case(OURS, {"capture_limit": 64}), "its option capture_limit 64"),
    "warm-up": (case(OURS, {"capture_warm_up": "eager"}), "its option capture_warm_up 'eager'"),
    "misspelt section": (
        case(OURS, engine={"additional_config": {"ascend_pases": {"flashcomm": True}}}),
        "nobody reads the section 'ascend_pases' of additional_config; write 'ascend_passes'",
    ),
    "misspelt section alone": (
        case({"mode": 2, "backend": "eager"}, engine={"additional_config": {"ascend-passes": {}}}),
        "write 'ascend_passes'",
    ),
    "outside of the section": (
        case(OURS, engine={"additional_config": {"flashcomm": True}}),
        'write {"ascend_passes": {"flashcomm": ...}}',
    ),
    "unknown variable": (
        case(OURS, environment={"ASCEND_PASSES_FLASHCOM_TOKENS": "1"}),
        "ASCEND_PASSES_FLASHCOM_TOKENS. Did you mean 'ASCEND_PASSES_FLASHCOMM_TOKENS'?",
    ),
    "one rank's sum": (case(OURS, {"matmul_all_reduce": True}), '"matmul_all_reduce": false'),
    "prefetch on the CPU": (case(OURS, {"dense_optimize": True}), "inside oneDNN"),
    "threshold": (
        case(OURS, {"flashcomm": True}, engine={"tensor_parallel_size": 2}),
        '"flashcomm_tokens": 1000 is never exceeded, since max_num_batched_tokens is 128',
    ),
    "second threshold": (
        case(
            OURS,
            {"flashcomm": True, "flashcomm_tokens": 64},
            engine={"tensor_parallel_size": 2},
        ),
        '"matmul_reduce_scatter_tokens": 1000 is never exceeded',
    ),
    "executor": (
        case({"mode": 2, "backend": "inductor"}, {"executor": "inductor"}),
        'leave "executor" away',
    ),
    "one graph": (
        case(
            {"mode": 2, "backend": "inductor"},
            {"flashcomm": True},
            engine={"tensor_parallel_size": 2},
        ),
        'write "backend": "ascend_dense"',
    ),
    "foreign backend": (case({"mode": 2, "backend": "aot_eager"}, {}), "runs no passes of ours"),
    "eager": (case({"mode": 2, "backend": "eager"}, {}), "runs no passes"),
    "one rank": (case(OURS, {"flashcomm": True}), "tensor_parallel_size is 1"),
    "enforce eager": (case(OURS, engine={"enforce_eager": True}), "leave --enforce-eager away"),
    "adapters": (case(OURS, engine={"enable_lora": True}), "does not compile with LoRA"),
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
    "the package's name": (
        case({"mode": 2, "backend": "ascend-passes"}),
        "Did you mean 'ascend_dense'?",
    ),
    "the package's module": (
        case({"mode": 2, "backend": "ascend_passes"}),
        "Did you mean 'ascend_dense'?",
    ),
    "profile": (case(OURS, {"profile": "atlas-900"}), "neither one of atlas-800-a2, "),
    "chip": (case(OURS, {"soc": "Ascend910C"}), "known chips begin with Ascend910B"),
    "part of a pass": (
        case(OURS, {"passes": "-sequence_parallel.cots"}),
        "Did you mean 'sequence_parallel.cost'?",
    ),
    "expected name": (case(OURS, {"expect": {"add_rms_nrom": 2}}), "Did you mean 'add_rms_norm'?"),
    "expected count": (
        case(OURS, {"expect": {"add_rms_norm": "2"}}),
        "'add_rms_norm' must have a count, not '2'",
    ),
    "dump": (case(OURS, {"dump": "/proc/none"}), "a folder that cannot be made"),
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
    "cost model": (
        case(
            OURS,
            {"flashcomm": True, "flashcomm_tokens": -1},
            engine={"tensor_parallel_size": 2},
        ),
        "write the number of tokens",
    ),
    "pieces": (case({**OURS, "cudagraph_mode": "PIECEWISE"}), "run uncaptured on this platform"),
    "split FlashComm": (
        case(
            {**OURS, "splitting_ops": ["vllm::unified_attention_with_output"]},
            {"flashcomm": True, "flashcomm_tokens": 64},
            engine={"tensor_parallel_size": 2},
        ),
        'write "splitting_ops": []',
    ),
    "no compilation": (case({**OURS, "mode": 0}, {}), '"cudagraph_mode": "FULL_DECODE_ONLY"'),
}
QUIET = {
    "plain": case({"mode": 0}),
    "whole": case(OURS),
    "families": case(OURS, {"expect": {"add_rms_norm_quant": 1, "rotary_embedding": 1}}),
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
        "out of reach": case(OURS, {"flashcomm": True}, engine={"tensor_parallel_size": 2}),
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
    """vLLM's warnings and Python's."""
    return "\n".join(line for line in result["log"] if "WARNING" in line.upper())


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
    assert "leaves no step to prefetch in" in warned(on_platform["one token"])


def test_a_threshold_that_no_step_reaches_changes_nothing(on_platform: dict[str, Any]) -> None:
    assert on_platform["out of reach"]["splitting_ops"] != []
    assert on_platform["out of reach"]["range_ends"] == [128]
    assert "is never exceeded" in warned(on_platform["out of reach"])


def test_a_sum_that_no_pass_sees_is_said_where_it_is_so(settled: dict[str, Any]) -> None:
    found = "shm_allreduce" in warned(settled["threshold"])
    assert found == settled["threshold"]["own_sum"]


def test_options_come_from_the_environment(on_platform: dict[str, Any]) -> None:
    assert on_platform["environment"]["range_ends"] == [15, 128]
