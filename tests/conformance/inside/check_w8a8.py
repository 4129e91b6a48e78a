"""A static W8A8 Qwen3 decodes on the device, captured, with the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch

import ascend_passes
from ascend_passes import npu
from ascend_passes.models.build import small_model
from ascend_passes.models.generate import logits_of, new_cache
from ascend_passes.models.quantize import quantize_model
from tests.conformance.inside import attention, kernels

STEPS = 5
RELATIVE_BOUND = 1 / 16
"""Of the largest logit. A sum that rounds the other way in bfloat16 moves an int8 activation by one
step, 1/127 of its range; through two layers that came to 1/36 at most over 12 prompts. Tokens are
not compared beside: where the two best logits are further apart than twice the bound, the bound
itself makes them equal, and random weights need not give such a pair."""


@pytest.fixture(scope="module")
def recorder():
    references = {o.qualified_name: o.reference for o in npu.OPERATORS.values()}
    return kernels.install({**references, **attention.REFERENCES})


@pytest.fixture(scope="module")
def model(recorder):
    made = small_model("qwen3", dtype=torch.bfloat16)
    # Attention from plain operators rounds alike on both; fused kernels differ in the last bit.
    made.set_attn_implementation("eager")
    prompt = torch.randint(0, made.config.vocab_size, (2, 8))
    quantize_model(made, "static", prompt)
    return made


def decoded(model, prompt, following, options):
    """Logits of a prefill and of decode steps through one cache, fed with given tokens."""
    torch._dynamo.reset()
    cache = new_cache(model, len(prompt), prompt.shape[1] + STEPS)
    forward = torch.compile(model, backend="ascend_dense", options=options)
    inputs = (prompt.to(model.device), following.to(model.device))
    with torch.no_grad():
        return logits_of(forward, model, cache, *inputs).cpu().float()


@pytest.mark.parametrize("executor", ["eager", "npugraph_ex"])
def test_a_captured_decode_gives_what_the_cpu_gives(model, recorder, executor):
    words = torch.randint(0, model.config.vocab_size, (2, 6 + STEPS - 1))
    prompt, following = words[:, :6], words[:, 6:]
    expected = decoded(model.to("cpu"), prompt, following, {"executor": "eager"})
    model.to(kernels.DEVICE)
    plain = decoded(model, prompt, following, {"executor": executor})
    ascend_passes.reset()
    before = recorder.replays
    options = {"executor": executor, "cudagraph_mode": "FULL"}
    captured = decoded(model, prompt, following, options)
    assert torch.equal(captured, plain)
    assert recorder.replays - before >= STEPS - 2  # not the prefill, nor the step that captures
    fired = sum(ascend_passes.reports(), ascend_passes.Report()).fired
    assert fired.get("add_rms_norm_quant", 0) > 0, fired

    bound = expected.abs().max() * RELATIVE_BOUND
    assert (captured - expected).abs().max() <= bound, words
