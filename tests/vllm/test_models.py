"""Engines on vLLM's CPU platform: the same tokens as plain vLLM, and the fusions that fired."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.slow import ASKED
from tests.vllm.reference import error

PAGE = Path(__file__).parents[2] / "docs/vllm.md"
PROMPTS = [[[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]]]
SHARED = list(range(20, 100))
LONG = [[[*SHARED, 7, 8], [9, 10]], [[*SHARED, 30, 31]]]
"""Longer than a step of 64 tokens; the second batch repeats the first prompt's beginning."""
LAYERS = 2
OURS = {"backend": "ascend_dense"}
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
MODELS = {
    "qwen3": ("qwen3", "f32"),
    "glm4": ("glm4", "f32"),
    "bf16": ("qwen3", "bf16"),
    "gemma3 bf16": ("gemma3", "bf16"),
    "static": ("qwen3", "bf16", "static"),
    "dynamic": ("qwen3", "bf16", "dynamic"),
}
if ASKED:  # the first three are near to those above; the experts compile on the other platform
    MODELS |= {name: (name, "f32") for name in ("qwen2", "llama", "gemma3", "qwen3_moe")}
    MODELS |= {f"gemma3 {form}": ("gemma3", "bf16", form) for form in ("static", "dynamic")}
EXPECTED = {
    "qwen3": {"add_rms_norm": 2 * LAYERS, "swiglu": LAYERS, "C_rotary_embedding": LAYERS},
    "qwen2": {"add_rms_norm": 2 * LAYERS, "swiglu": LAYERS, "C_rotary_embedding": LAYERS},
    "llama": {"add_rms_norm": 2 * LAYERS, "swiglu": LAYERS, "C_rotary_embedding": LAYERS},
    "gemma3": {"vllm_ir_rms_norm": 4 * LAYERS + 1, "C_rotary_embedding": LAYERS},
    "glm4": {"add_rms_norm": 2 * LAYERS, "swiglu": LAYERS, "C_rotary_embedding": LAYERS},
    "qwen3_moe": {"add_rms_norm": 2 * LAYERS, "C_rotary_embedding": LAYERS},
    "bf16": {"add_rms_norm": 2 * LAYERS, "swiglu": LAYERS, "C_rotary_embedding": LAYERS},
    "gemma3 bf16": {"add_gemma_rms_norm": 2 * LAYERS, "geglu": LAYERS},
    "gemma3 static": {
        "gemma_rms_norm": 6 * LAYERS + 1,
        "add_rms_norm_quant": 2 * LAYERS - 1,
        "rms_norm_quant": 1,
        "unrounded_gain": 1,
        "geglu": LAYERS,
    },
    "gemma3 dynamic": {
        "gemma_rms_norm": 6 * LAYERS + 1,
        "add_rms_norm_dynamic_quant": 2 * LAYERS - 1,
        "unrounded_gain": 1,
        "geglu": LAYERS,
    },
    "static": {
        "add_rms_norm_quant": 2 * LAYERS - 1,
        "rms_norm_quant": 1,
        "swiglu_quant_static": LAYERS,
    },
    "dynamic": {"add_rms_norm_dynamic_quant": 2 * LAYERS - 1, "swiglu_quant_dynamic": LAYERS},
}
"""Model -> how often each fusion fires: two norms in a layer, all but the first after an add.

Gemma's layers have six norms: those of queries and keys, two in front of an add, and two behind one
as in the others. Behind the model's last norm no quantize follows: its gain is left unrounded.
"""
ROUNDING = 2
"""Our root mean square error against float64 may be this multiple of plain vLLM's: both round to
bf16 and int8 at the same places, ours at fewer. A wrong formula is an error of its own beside the
rounding."""


def model_lines(log: list[str]) -> list[str]:
    """The lines that say what was done to a model."""
    return [line for line in log if "ascend_dense: Qwen3ForCausalLM" in line]


def counts(line: str) -> dict[str, int]:
    """Rule -> how often it fired, out of a model's line; the misses follow the first semicolon."""
    fired = line.partition("; ")[0]
    return {name: int(count) for count, name in re.findall(r"\b(\d+) ([a-zA-Z]\w*)", fired)}


def case(name: str, model: str, dtype: str, compilation: Any, **engine: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": model,
        "batches": engine.pop("batches", PROMPTS),
        "logprobs": 5,
        "engine": {"dtype": DTYPES[dtype], "compilation_config": compilation, **engine},
    }


@pytest.fixture(scope="module")
def results(session: Any, checkpoints: Any, cache_root: Any) -> dict[str, Any]:
    """Every engine, in one process and from an empty compile cache that no other test fills."""
    cases = []
    for name, model in MODELS.items():
        path = checkpoints(*model)
        cases.append(case(f"{name} plain", path, model[1], {"mode": 0}))
        cases.append(case(f"{name} ours", path, model[1], OURS))
    cases += switched_cases(checkpoints())
    return session(cases, VLLM_CACHE_ROOT=cache_root())


@pytest.mark.parametrize("name", MODELS)
def test_fusions_fire(results: dict[str, Any], name: str) -> None:
    report = results[f"{name} ours"]["reports"][0]
    assert not report["errors"]
    found = {rule: report["fired"].get(rule, 0) for rule in EXPECTED[name]}
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model[1] == "f32"])
def test_float32_tokens_are_those_of_plain_vllm(results: dict[str, Any], name: str) -> None:
    assert results[f"{name} ours"]["tokens"] == results[f"{name} plain"]["tokens"]
    assert results[f"{name} ours"]["backend"] == "ascend_dense"


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model[1] == "bf16"])
def test_logprobs_are_as_near_to_float64_as_plain_vllms(
    results: dict[str, Any], checkpoints: Any, name: str
) -> None:
    path = checkpoints(*MODELS[name])
    ours, plain = (error(path, PROMPTS, results[f"{name} {kind}"]) for kind in ("ours", "plain"))
    assert 0 < ours < ROUNDING * plain


def test_one_line_for_a_model_in_the_log(results: dict[str, Any]) -> None:
    (line,) = model_lines(results["qwen3 ours"]["log"])
    assert counts(line)["add_rms_norm"] == 2 * LAYERS


def off(system: str) -> dict[str, str]:
    """The option that docs/vllm.md turns a system off by, as its table has it."""
    (found,) = re.findall(rf'^\| {system}.*?`(\w+)="(.*?)"` turns it off', PAGE.read_text(), re.M)
    return dict([found])


def section(**options: Any) -> dict[str, Any]:
    """The engine's argument that holds our options."""
    return {"additional_config": {"ascend_passes": options}}


def switched_cases(path: str) -> list[dict[str, Any]]:
    """Engines of one model, behind the two without options."""
    changed = section(rules="-add_rms_norm", **off("rope"))
    inductor = {"mode": 2, "backend": "inductor"}
    chunked = {"max_num_batched_tokens": 64, "enable_prefix_caching": True, "batches": LONG}
    return [
        case("second", path, "f32", OURS),
        case("changed", path, "f32", OURS, **changed),
        case("again", path, "f32", OURS, **changed),
        case("stock", path, "f32", {**OURS, "mode": 1}),
        case("once", path, "f32", {**OURS, "mode": 2}, **section(strict=True)),
        case("eager", path, "f32", OURS, enforce_eager=True),
        case("wrong", path, "f32", OURS, **section(flashcom=True)),
        case("inductor", path, "f32", inductor, **section()),
        case("executor", path, "f32", OURS, **section(executor="inductor")),
        case("transformers", path, "f32", OURS, model_impl="transformers"),
        case("long plain", path, "f32", {"mode": 0}, **chunked),
        case("long ours", path, "f32", {**OURS, "custom_ops": ["none"]}, **chunked),
    ]


@pytest.fixture(scope="module")
def switched(results: dict[str, Any]) -> dict[str, Any]:
    """The engines of that model by shorter names."""
    return {**results, "plain": results["qwen3 plain"], "first": results["qwen3 ours"]}


@pytest.mark.parametrize(
    "name",
    [
        *("first", "second", "changed", "again", "stock", "once", "eager", "inductor"),
        *("executor", "transformers"),
    ],
)
def test_tokens_in_every_mode(switched: dict[str, Any], name: str) -> None:
    assert switched[name]["tokens"] == switched["plain"]["tokens"], switched[name].get("error")


def test_a_second_start_loads_what_the_first_compiled(switched: dict[str, Any]) -> None:
    assert [switched[name]["loaded"] for name in ("first", "second")] == [0, 1]
    assert switched["second"]["reports"][0]["fired"]["add_rms_norm"] == 2 * LAYERS


def test_another_option_is_another_cache_entry(switched: dict[str, Any]) -> None:
    assert [switched[name]["loaded"] for name in ("changed", "again")] == [0, 1]
    for name in ("changed", "again"):
        assert "add_rms_norm" not in switched[name]["reports"][0]["fired"]


def test_lookups_stay_in_the_layers_by_the_switch_of_the_page(switched: dict[str, Any]) -> None:
    lookups = [
        report["after"]["aten::index_select"]
        for report in (switched[name]["reports"][0] for name in ("first", "changed"))
    ]
    assert lookups == [1, LAYERS]


def test_silent_modes_warn_with_the_fix(switched: dict[str, Any]) -> None:
    stock, eager = ("\n".join(switched[name]["log"]) for name in ("stock", "eager"))
    assert "WARNING" in stock and "DYNAMO_TRACE_ONCE" in stock
    assert "WARNING" in eager and "enforce_eager" in eager


def test_a_wrong_option_stops_the_start(switched: dict[str, Any]) -> None:
    assert "unknown option 'flashcom'. Did you mean 'flashcomm'?" in switched["wrong"]["error"]


def test_the_passes_run_inside_inductor(switched: dict[str, Any]) -> None:
    assert switched["inductor"]["backend"] == "inductor"
    assert switched["inductor"]["reports"][0]["fired"]["add_rms_norm"] == 2 * LAYERS


def test_the_executor_inductor_and_the_transformers_backend_fuse_as_well(
    switched: dict[str, Any],
) -> None:
    executor, theirs = (
        switched[name]["reports"][0]["fired"] for name in ("executor", "transformers")
    )
    assert executor["add_rms_norm"] == theirs["add_rms_norm"] == 2 * LAYERS
    assert theirs["rotary_mul"] == 2 * LAYERS and theirs["swiglu"] == LAYERS


def test_a_rotation_that_vllm_spells_out_is_known(switched: dict[str, Any]) -> None:
    assert switched["long ours"]["reports"][0]["fired"]["rotary_mul"] == 2 * LAYERS


def test_chunked_prefill_and_prefix_caching(switched: dict[str, Any]) -> None:
    assert switched["long ours"]["tokens"] == switched["long plain"]["tokens"]
