"""Decoding with sliding windows: one captured graph for all positions, right past the window."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, StaticCache

import ascend_passes
from ascend_passes.capture.decode import Decoder, decode_loop, growing
from ascend_passes.models.compare import limit_of

WINDOW, PROMPT, STEPS = 8, 5, 40
SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
KINDS = {
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16, **MIXED}),
    "mistral": ("mistral", {}),
    "cohere2": ("cohere2", MIXED),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, **MIXED}),
}


def model_of(kind, **changes):
    model_type, special = KINDS[kind]
    config = CONFIG_MAPPING[model_type](**{**SMALL, **special, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config).eval()


def prompts(batch):
    return torch.randint(3, 97, (batch, PROMPT))


def step(model, tokens, cache):
    logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    tokens.copy_(logits.argmax(-1, keepdim=True))
    return logits


def replayed():
    """For each compiled graph in order: (captures, calls, replays, uncaptured)."""
    notes = [note for report in ascend_passes.reports() for note in report.notes]
    counts = [re.findall(r"graphs: (\d+)|of (\d+) calls (\d+)|and (\d+) ran", n) for n in notes]
    return [tuple(int(n) for found in of for n in found if n) for of in counts if of]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    ascend_passes.reset()


@pytest.mark.parametrize(
    ("kind", "batch"), [("gemma3", 1), ("mistral", 2), ("cohere2", 1), ("gpt_oss", 2)]
)
@torch.no_grad()
def test_each_step_is_eagers_over_several_windows(kind, batch):
    """Logits, tokens, caches and the layers' counts, from below the window to five times it."""
    model, ids = model_of(kind), prompts(batch)
    options = {"cudagraph_mode": "FULL_DECODE_ONLY"}
    compiled = torch.compile(step, backend="ascend_dense", options=options)
    caches = [StaticCache(config=model.config, max_cache_len=PROMPT + STEPS) for _ in range(2)]
    first = [model(ids, past_key_values=cache, use_cache=True).logits[:, -1] for cache in caches]
    tokens = [logits.argmax(-1, keepdim=True) for logits in first]
    limit, kept = limit_of(torch.float32, False), []
    for _ in range(STEPS - 1):
        expected = step(model, tokens[0], caches[0])
        with growing({"cumulative_length_int"}):
            found = compiled(model, tokens[1], caches[1])
        assert torch.equal(*tokens)
        assert (found - expected).norm() <= limit * expected.norm()
        for one, other in zip(*(cache.layers for cache in caches), strict=True):
            torch.testing.assert_close(one.keys, other.keys)
            assert one.get_seq_length() == other.get_seq_length()
        kept.append((found, found.clone()))
    assert all(torch.equal(found, then) for found, then in kept)
    below = WINDOW - PROMPT
    assert replayed() == [
        (1, below, below - 1, 0),
        (1, STEPS - 1 - below, STEPS - 2 - below, 0),
    ]


def test_a_window_above_the_length_is_one_graph():
    """All steps but the first, as without a window; the first compiles and warms up."""
    model, ids = model_of("gemma3", sliding_window=128), prompts(1)
    expected = decode_loop(model, ids, max_new_tokens=80, backend=None)
    assert torch.equal(decode_loop(model, ids, max_new_tokens=80), expected)
    assert replayed() == [(1, 79, 78, 0)]


def test_a_decoder_that_has_warmed_up_serves_prompts_of_any_length():
    model = model_of("mistral")
    decoder = Decoder.of(model, 1, 40, options={"capture_warm_up": "eager"})
    for length in (3, 5, 4):
        ids = torch.randint(3, 97, (1, length))
        expected = decode_loop(model, ids, max_new_tokens=25, backend=None)
        assert torch.equal(decode_loop(decoder, ids, max_new_tokens=25), expected)
    assert [captures for captures, *_ in replayed()] == [1, 1]


def test_generate_captures_one_graph_for_all_positions():
    """One below the window, one past it; `generate` makes a new cache, which is captured anew."""
    model = model_of("mistral")
    options = {"cudagraph_mode": "FULL_DECODE_ONLY"}
    plain = model.forward
    compiled = torch.compile(plain, backend="ascend_dense", options=options)
    settings = {
        "cache_implementation": "static",
        "do_sample": False,
        "max_new_tokens": 12,
        "disable_compile": True,  # by transformers
    }
    for turn in (1, 2):
        ids = prompts(1)
        model.forward = plain
        expected = model.generate(ids, **settings)
        model.forward = compiled
        assert torch.equal(model.generate(ids, **settings), expected)
        assert replayed() == [
            (0, turn, 0, turn),
            (turn, 3 * turn, 3 * turn - 1, 0),
            (turn, 8 * turn, 8 * turn - 1, 0),
        ]
