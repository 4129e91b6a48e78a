"""Qwen3-MoE: experts stay vLLM's one operator, and all around them fuses as in a dense layer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.slow import ASKED, slow
from tests.vllm.reference import error
from tests.vllm.test_models import LAYERS, PROMPTS, ROUNDING, case, counts
from tests.vllm.test_platform import DECODE, FLASHCOMM, PLAIN, RANGES, WIDER

FUSED = {"add_rms_norm": 2 * LAYERS, "vllm_ir_rms_norm": 2 * LAYERS + 1}
"""The norms of queries and keys are plain, and so is the first of the model."""
IN_PLACE = 2 * LAYERS
"""Writes of attention and of the experts."""
KEPT = f"; kept {LAYERS} vllm::moe_forward; "
SUMS = 2 * LAYERS + 1
"""Over ranks: attention's and the experts' of each layer, and the embedding's."""
ACTS = {"additional_config": {"ascend_passes": FLASHCOMM}}
PARALLEL = {"tensor": False, "expert": True}
"""Whose rows or whose experts are spread over the ranks -> vLLM's `enable_expert_parallel`."""
SLOW = [
    *("tensor two", "tensor decode", "tensor flashcomm"),
    *("expert two", "expert decode"),
]
RUNS = ["expert flashcomm", *(pytest.param(name, marks=slow) for name in SLOW)]


def lines_of(result: dict[str, Any]) -> list[str]:
    """What is said of the model."""
    return [line for line in result["log"] if "ascend_dense: Qwen3MoeForCausalLM" in line]


@slow
def test_one_rank_captures_a_decode_step(ranks: dict[str, Any]) -> None:
    assert ranks["decode"]["tokens"] == ranks["plain"]["tokens"]
    assert ranks["decode"]["captured"] == 1


@pytest.fixture(scope="module")
def ranks(session: Any, checkpoints: Any) -> dict[str, Any]:
    path = checkpoints("qwen3_moe")
    cases = [case("plain", path, "f32", PLAIN)]
    cases += [case("decode", path, "f32", DECODE)] if ASKED else []
    for kind, spread in PARALLEL.items():
        two = {"tensor_parallel_size": 2, "enable_expert_parallel": spread}
        every = [
            case(f"{kind} two", path, "f32", RANGES, **two),
            case(f"{kind} decode", path, "f32", DECODE, **two),
            case(f"{kind} flashcomm", path, "f32", RANGES, **two, **ACTS),
        ]
        cases += [one for one in every if ASKED or one["name"] not in SLOW]
    wide = checkpoints("qwen3_moe", "bf16", **WIDER) if ASKED else ""
    if ASKED:
        cases += [
            case("wide plain", wide, "bf16", PLAIN, **two),
            case("wide", wide, "bf16", RANGES, **two, **ACTS),
        ]
    found = session(cases, ASCEND_TEST_PLATFORM="1", VLLM_CPU_OMP_THREADS_BIND="0|1")
    return {**found, "folder": wide}


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_decode_the_tokens_of_one(ranks: dict[str, Any], name: str) -> None:
    assert "tokens" in ranks[name], ranks[name]["error"]
    assert ranks[name]["tokens"] == ranks["plain"]["tokens"]


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_fuse_as_one(ranks: dict[str, Any], name: str) -> None:
    lines = lines_of(ranks[name])
    assert len(lines) == (4 if "flashcomm" in name else 2), "for each rank and range"
    for line in lines:
        assert FUSED.items() <= counts(line).items()
        assert KEPT in line and counts(line)["reinplace"] == IN_PLACE
        spread = "5 to 128 tokens" in line
        assert counts(line).get("sequence_parallel", 0) == SUMS * spread


@slow
def test_attentions_products_fuse_with_their_collectives(ranks: dict[str, Any]) -> None:
    """Those of queries, keys and values read gathered rows, and attention's last is scattered."""
    lines = [line for line in lines_of(ranks["wide"]) if "5 to 128 tokens" in line]
    assert [counts(line)["matmul_collective"] for line in lines] == [2 * LAYERS] * 2
    ours, plain = (error(ranks["folder"], PROMPTS, ranks[name]) for name in ("wide", "wide plain"))
    assert 0 < ours < ROUNDING * plain
