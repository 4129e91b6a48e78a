"""Gemma's norms round no more than eager does: the median over tokens, gains as in real weights."""

from __future__ import annotations

import copy
import secrets

import pytest
import torch

pytest.importorskip("transformers")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import ascend_passes
from ascend_passes.models.build import SMALL
from ascend_passes.models.limits import NO_WORSE
from ascend_passes.models.reference import InDouble

LAYERS = 2
LOCAL = {"query_pre_attn_scalar": 64, "sliding_window": 512}
FAMILIES = {
    "gemma": {},
    "gemma2": LOCAL,
    "gemma3_text": LOCAL,
    "vaultgemma": LOCAL,
    "recurrent_gemma": {"lru_width": 256, "attention_window_size": 512},
}
TOKENS = (4, 112)
RECURRENT_TOKENS = (32, 14)
"""As many, in fewer steps: the graph of a recurrence has each step of it."""


def gains(parameter, source, largest):
    """What is stored: one less than the gain. Most gains are near one, a few near the largest."""
    spread = torch.rand(parameter.shape, generator=source) - 0.5
    rare = torch.rand(parameter.shape, generator=source) > 0.98
    return spread + rare * (largest - 1) * torch.rand(parameter.shape, generator=source)


@torch.no_grad()
def model_of(family, seed, largest):
    config = CONFIG_MAPPING[family](**{**SMALL, "num_hidden_layers": LAYERS, **FAMILIES[family]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    source = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and "norm" in name:
            last = name.endswith(("model.norm.weight", "final_norm.weight"))
            parameter.copy_(gains(parameter, source, largest if last else largest / 20))
    return model


def ratio(model, token_ids):
    """The median over tokens of the compiled model's distance from float64 over eager's."""
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        with InDouble():
            exact = copy.deepcopy(model).double()(token_ids, use_cache=False).logits
        eager = model(token_ids, use_cache=False).logits
        compiled = torch.compile(model, backend="ascend_dense")(token_ids, use_cache=False).logits
    distances = [(one.double() - exact).norm(dim=-1) for one in (compiled, eager)]
    return (distances[0] / distances[1]).median().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_gemma_is_no_further_from_float64_than_eager(family):
    seed = secrets.randbelow(2**31)
    model = model_of(family, seed, largest=60.0)
    size = RECURRENT_TOKENS if family == "recurrent_gemma" else TOKENS
    token_ids = torch.randint(3, 512, size, generator=torch.Generator().manual_seed(seed))
    measured = ratio(model, token_ids)
    assert measured <= NO_WORSE, f"{measured:.3f} for seed {seed}"
    (report,) = ascend_passes.reports()
    assert not report.errors
    assert report.fired["unrounded_gain"] == report.fired["add_gemma_rms_norm"] > 0
