"""Numbers on the device: a small Qwen3 gives the CPU's tokens, compiled and captured as well."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

import ascend_passes
from ascend_passes import npu
from ascend_passes.capture import device_for
from ascend_passes.models.generate import generate, new_cache
from tests.conformance.inside import attention, kernels

DEVICE = kernels.DEVICE
STEPS = 6


@pytest.fixture(scope="module")
def recorder():
    references = {o.qualified_name: o.reference for o in npu.OPERATORS.values()}
    return kernels.install({**references, **attention.REFERENCES})


@pytest.fixture(scope="module")
def model(recorder):
    config = Qwen3Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def on_device(model):
    yield model.to(DEVICE)
    model.to("cpu")


def tokens(forward, ids, steps=STEPS):
    """Greedy decoding without a cache: every step runs the whole sequence."""
    with torch.no_grad():
        for _ in range(steps):
            logits = forward(ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids.cpu()


@pytest.fixture
def prompt():
    return torch.randint(0, 128, (1, 5))


def test_eager_gives_the_tokens_of_the_cpu(model, prompt):
    expected = tokens(model, prompt)
    assert torch.equal(tokens(model.to(DEVICE), prompt.to(DEVICE)), expected)
    model.to("cpu")


def test_generate_with_a_cache_gives_the_tokens_of_the_cpu(model, prompt):
    expected = model.generate(prompt, max_new_tokens=STEPS, do_sample=False)
    found = model.to(DEVICE).generate(prompt.to(DEVICE), max_new_tokens=STEPS, do_sample=False)
    model.to("cpu")
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("executor", ["eager", "npugraph_ex"])
def test_ascend_dense_gives_the_tokens_of_the_cpu(model, prompt, executor):
    expected = tokens(model, prompt)
    ascend_passes.reset()
    torch._dynamo.reset()
    options = {"executor": executor}
    compiled = torch.compile(model.to(DEVICE), backend="ascend_dense", options=options)
    found = tokens(compiled, prompt.to(DEVICE))
    model.to("cpu")
    assert torch.equal(found, expected)
    fired = ascend_passes.reports()[0].fired
    assert sum(fired.values()) > 0, ascend_passes.reports()[0]


@pytest.mark.parametrize("executor", ["eager", "npugraph_ex"])
def test_a_captured_step_gives_the_tokens_of_the_cpu(model, recorder, executor):
    torch._dynamo.reset()
    options = {"executor": executor, "cudagraph_mode": "FULL"}
    inputs = [torch.randint(0, 128, (1, 8)) for _ in range(4)]
    with torch.no_grad():
        expected = [model(ids, use_cache=False).logits for ids in inputs]
        compiled = torch.compile(model.to(DEVICE), backend="ascend_dense", options=options)
        before = recorder.replays
        found = [compiled(ids.to(DEVICE), use_cache=False).logits.cpu() for ids in inputs]
    model.to("cpu")
    assert recorder.replays - before >= len(inputs) - 1
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.argmax(-1), theirs.argmax(-1))
        torch.testing.assert_close(mine, theirs)


def decoded(model, prompt, options=None):
    """Greedy tokens through a static cache, one call of the model for each."""
    torch._dynamo.reset()
    cache = new_cache(model, len(prompt), prompt.shape[1] + STEPS)
    forward = model
    if options is not None:
        forward = torch.compile(model, backend="ascend_dense", options=options)
    return generate(forward, model, cache, prompt.to(model.device), STEPS).cpu()


@pytest.mark.parametrize("executor", ["eager", "npugraph_ex"])
def test_a_captured_decode_gives_the_tokens_of_the_cpu(model, recorder, executor):
    prompt = torch.randint(0, 128, (2, 5))
    expected = decoded(model, prompt)
    model.to(DEVICE)
    try:
        before = recorder.replays
        options = {"executor": executor, "cudagraph_mode": "FULL_DECODE_ONLY"}
        found = decoded(model, prompt, options)
    finally:
        model.to("cpu")
    # The first decode step warms up and the second captures, so that the others are replays.
    assert recorder.replays - before >= STEPS - 3
    assert torch.equal(found, expected)


def test_a_read_in_a_capture_is_refused(recorder):
    x = torch.ones(2, device=DEVICE)
    with (
        pytest.raises(RuntimeError, match="while a graph is captured"),
        torch.npu.graph(torch.npu.NPUGraph()),
    ):
        x.sum().item()


def test_replay_runs_what_was_captured(recorder):
    x = torch.zeros(3, device=DEVICE)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y = x * 2 + 1
    for value in torch.randn(4):
        x.fill_(value)
        graph.replay()
        assert torch.equal(y.cpu(), torch.full((3,), value) * 2 + 1)


def test_a_pool_outlives_its_last_graph(recorder):
    device = device_for("npu")
    x = torch.ones(3, device=DEVICE)
    for value in (1.0, 2.0):
        x.fill_(value)
        graph, y = device.capture(lambda: x * 2, [x], device.pool())
        graph.replay()
        assert torch.equal(y.cpu(), torch.full((3,), 2 * value))
        del graph, y
