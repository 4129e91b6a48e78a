"""A small Qwen3-MoE, as transformers has it, gets NPU operators for its experts and stays right."""

from __future__ import annotations

import collections
import copy
import secrets

import pytest
import torch

pytest.importorskip("transformers")

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import ascend_passes
from ascend_passes.models.limits import NO_WORSE
from ascend_passes.models.reference import InDouble

LAYERS, EXPERTS, CHOSEN = 2, 8, 2
SIZES = {
    **{"vocab_size": 97, "hidden_size": 64, "moe_intermediate_size": 32, "head_dim": 64},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "max_position_embeddings": 128},
}
FIRED = {
    "gating_top_k_softmax": LAYERS,
    "init_routing": LAYERS,
    "grouped_matmul": 2 * LAYERS,
    "swiglu": LAYERS,
    "finalize_routing": LAYERS,
    "rms_norm": 4 * LAYERS + 1,
    "add_rms_norm": 2 * LAYERS,
    "rotary_mul": 2 * LAYERS,
    "apply_rotary_pos_emb": LAYERS,
}
"""As in a dense layer, and the experts' part."""
CALLS = {
    "npu.npu_moe_gating_top_k_softmax": LAYERS,
    "npu.npu_moe_init_routing_v2": LAYERS,
    "npu.npu_grouped_matmul": 2 * LAYERS,
    "npu.npu_swiglu": LAYERS,
    "npu.npu_moe_finalize_routing": LAYERS,
    "npu.npu_add_rms_norm": 2 * LAYERS,
    "npu.npu_apply_rotary_pos_emb": LAYERS,
}
SPELLED = (
    *("aten.topk", "aten._softmax", "aten.sort", "aten.histc", "aten.cumsum", "aten.index_put"),
    *("aten._grouped_mm", "transformers.grouped_mm_fallback", "aten.silu", "aten.floor_divide"),
)
"""Operators that only the spelling of the experts has."""


def model_of(seed, dtype, **given):
    """A model whose tokens go to different experts, by weights that are large enough."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen3MoeConfig(**{**SIZES, "norm_topk_prob": True, **given})
        model = Qwen3MoeForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.to(dtype)


def prompt(seed, *size):
    return torch.randint(97, size, generator=torch.Generator().manual_seed(seed))


def compiled_of(model, **options):
    torch._dynamo.reset()
    ascend_passes.reset()
    dynamic = options.pop("dynamic", False)
    return torch.compile(model, backend="ascend_dense", dynamic=dynamic, options=options)


def logits_of(model, token_ids):
    with torch.no_grad():
        return model(token_ids, use_cache=False).logits


def report_of():
    (report,) = ascend_passes.reports()
    assert not report.errors
    return report


def calls_of(report):
    """How often the rewritten graph calls each operator."""
    words = str(report.graph_after).split("torch.ops.")[1:]
    return collections.Counter(".".join(word.split(".")[:2]) for word in words)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [True, False])
def test_all_of_a_layer_fuses(dtype, normed):
    model, token_ids = model_of(1, dtype, norm_topk_prob=normed), prompt(1, 1, 12)
    logits_of(compiled_of(model), token_ids)
    report = report_of()
    assert {name: report.fired.get(name) for name in FIRED} == FIRED
    calls = calls_of(report)
    assert {name: calls[name] for name in CALLS} == CALLS
    assert not [name for name in SPELLED if calls[name]]
    assert not [miss for miss in report.misses if miss.rule in FIRED and miss.complete]
    assert not [note for note in report.notes if "not compared" in note]


def greedy(run, token_ids, steps):
    """Tokens with their prompt, a step longer each time."""
    for _ in range(steps):
        logits = logits_of(run, token_ids)
        token_ids = torch.cat([token_ids, logits[:, -1:].argmax(-1)], 1)
    return token_ids


def test_float32_tokens_are_those_of_eager():
    seed = secrets.randbelow(2**31)
    model, token_ids = model_of(seed, torch.float32), prompt(seed, 2, 7)
    run = compiled_of(model, dynamic=True)
    assert torch.equal(greedy(run, token_ids, 4), greedy(model, token_ids, 4)), seed
    assert len(ascend_passes.reports()) == 1, "one graph serves every length"
    fired = report_of().fired
    found = {name: fired.get(name) for name in FIRED if name != "apply_rotary_pos_emb"}
    assert found.items() < FIRED.items(), "of symbolic sizes the rotations of a layer stay two"


def test_float32_logits_are_those_of_eager_with_an_expert_that_has_no_token():
    """Three tokens have six slots, of eight experts."""
    seed = secrets.randbelow(2**31)
    model = model_of(seed, torch.float32)
    for size in ((1, 1), (1, 3), (3, 1)):
        token_ids = prompt(seed, *size)
        found = logits_of(compiled_of(model), token_ids)
        torch.testing.assert_close(found, logits_of(model, token_ids), rtol=1e-4, atol=1e-4)
        assert report_of().fired["grouped_matmul"] == 2 * LAYERS


def test_float32_logits_with_all_tokens_at_two_experts():
    model = model_of(3, torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()  # ties: every token takes the same experts
    token_ids = prompt(3, 1, 9)
    found = logits_of(compiled_of(model), token_ids)
    torch.testing.assert_close(found, logits_of(model, token_ids), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_no_further_from_float64_than_eager():
    """The median over tokens, which few that go to other experts do not move."""
    seed = secrets.randbelow(2**31)
    model, token_ids = model_of(seed, torch.bfloat16), prompt(seed, 8, 32)
    exact_model = copy.deepcopy(model).double()
    exact_model.config._experts_implementation = "eager"  # torch's grouped product has no float64
    with InDouble():
        exact = logits_of(exact_model, token_ids)
    runs = compiled_of(model), model
    far = [(logits_of(run, token_ids).double() - exact).norm(dim=-1) for run in runs]
    measured = (far[0] / far[1]).median().item()
    assert measured <= NO_WORSE, f"{measured:.3f} for seed {seed}"
    assert report_of().fired["grouped_matmul"] == 2 * LAYERS


@pytest.mark.parametrize("part", ["gating_top_k_softmax", "init_routing", "grouped_matmul"])
@pytest.mark.parametrize("alone", [True, False])
def test_each_part_is_right_without_the_others(part, alone):
    parts = ["gating_top_k_softmax", "init_routing", "finalize_routing", "grouped_matmul"]
    off = [one for one in parts if (one != part) == alone]
    switches = ",".join(f"-experts.{one}" for one in off)
    model, token_ids = model_of(5, torch.float32), prompt(5, 1, 11)
    found = logits_of(compiled_of(model, passes=switches), token_ids)
    torch.testing.assert_close(found, logits_of(model, token_ids), rtol=1e-4, atol=1e-4)
    fired = report_of().fired
    assert {one for one in parts if fired.get(one)} == set(parts) - set(off)


@pytest.mark.parametrize("passes", ["", "-experts"])
def test_no_weight_of_attention_is_taken_for_an_mlps(passes):
    model, token_ids = model_of(6, torch.bfloat16), prompt(6, 1, 6)
    logits_of(compiled_of(model, prefetch_mlp=True, passes=passes), token_ids)
    (report,) = ascend_passes.reports()
    assert not report.fired.get("prefetch")


def test_inductor_keeps_the_grouped_product_as_one_call():
    model, token_ids = model_of(7, torch.float32), prompt(7, 1, 6)
    found = logits_of(compiled_of(model, executor="inductor"), token_ids)
    torch.testing.assert_close(found, logits_of(model, token_ids), rtol=1e-4, atol=1e-4)
    assert report_of().fired["grouped_matmul"] == 2 * LAYERS


def test_a_captured_decode_gives_the_tokens_of_generate():
    model, token_ids = model_of(9, torch.float32), prompt(9, 2, 5)
    torch._dynamo.reset()
    ascend_passes.reset()
    options = {"cudagraph_mode": "FULL_DECODE_ONLY"}
    found = ascend_passes.decode_loop(model, token_ids, max_new_tokens=6, options=options)
    assert torch.equal(found, greedy(model, token_ids, 6))
    assert all(report.fired["grouped_matmul"] == 2 * LAYERS for report in ascend_passes.reports())
