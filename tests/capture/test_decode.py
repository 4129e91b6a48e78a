"""Decoding a Hugging Face model through captured graphs, ahead of the host."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from transformers import StaticCache

import ascend_passes
from ascend_passes.capture import device_for
from ascend_passes.capture.decode import Decoder, decode_loop, greedy_step, waits_for_host
from ascend_passes.models.build import small_model
from ascend_passes.models.compare import NO_WORSE, Error, limit_of
from ascend_passes.models.generate import logits_of, new_cache
from ascend_passes.models.quantize import quantize_model
from ascend_passes.models.reference import reference_logits
from ascend_passes.options.value import Options
from tests.slow import slow

from .backend import Backend, graph_of

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 97,
}
KINDS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "w8a8-static": torch.bfloat16,
    "w8a8-dynamic": torch.bfloat16,
}
STEPS = 64
PROMPT = 5


def model_of(kind):
    model = small_model("qwen3", KINDS[kind], seed=1, **SMALL)
    if kind.startswith("w8a8"):
        quantize_model(model, kind.removeprefix("w8a8-"), torch.randint(0, 97, (2, 16)))
    return model


@pytest.fixture(scope="module")
def models():
    return functools.cache(model_of)


def step_with_logits(model, tokens, cache):
    logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    tokens.copy_(logits.argmax(-1, keepdim=True))
    return logits


@torch.no_grad()
def decode(mode, model, prompts):
    """(tokens, logits) of `STEPS` tokens by the compiled step, and its report."""
    torch._dynamo.reset()
    ascend_passes.reset()
    step = torch.compile(step_with_logits, backend="ascend_dense", options={"cudagraph_mode": mode})
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + STEPS)
    logits = [model(prompts, past_key_values=cache, use_cache=True).logits[:, -1]]
    tokens = logits[0].argmax(-1, keepdim=True)
    chosen = [tokens.clone()]
    for _ in range(STEPS - 1):
        logits.append(step(model, tokens, cache))
        chosen.append(tokens.clone())
    (report,) = ascend_passes.reports()
    return torch.cat(chosen, 1), torch.stack(logits, 1), report


@pytest.mark.parametrize(
    ("kind", "batch", "rows"),
    [
        pytest.param(kind, batch, rows, marks=[] if kind in always else slow)
        for batch, rows, always in ((1, 1, {"w8a8-dynamic"}), (3, 4, KINDS), (8, 8, {"bfloat16"}))
        for kind in KINDS
    ],
)
def test_a_captured_step_of_ascend_dense(models, kind, batch, rows):
    """As accurate as eager on its own tokens, and capture changes no bit of the compiled step."""
    model = models(kind)
    given = torch.randint(0, 97, (batch, PROMPT), generator=torch.Generator().manual_seed(2))
    prompts = torch.cat([given, given[-1:].expand(rows - batch, -1)])
    plain_tokens, plain, _ = decode("NONE", model, prompts)
    tokens, logits, report = decode("FULL_DECODE_ONLY", model, prompts)
    assert torch.equal(tokens, plain_tokens)
    assert torch.equal(logits, plain)

    assert report.fired["capture"] == 1  # the warm-up is the first of the calls
    replays = STEPS - 2
    assert (
        f"captured graphs: 1, of {STEPS - 1} calls {replays} replayed one and 0 ran uncaptured"
        in report.notes
    )
    assert not [miss for miss in report.misses if miss.rule in ("capture", "reinplace")]
    for lookup in ("aten.cos.default", "aten.sin.default"):
        assert report.graph_after.count(lookup) == 1

    tokens, logits, following = tokens[:batch], logits[:batch], tokens[:batch, :-1]
    exact = reference_logits(model, given, following)[:, PROMPT - 1 :]
    cache = new_cache(model, batch, PROMPT + STEPS)
    eager = logits_of(model, model, cache, given, following)[:, PROMPT - 1 :]
    error, eager_error = Error.between(logits, exact), Error.between(eager, exact)
    assert error.relative <= limit_of(model.dtype, kind.startswith("w8a8"))
    if kind == "float32":
        assert torch.equal(tokens, eager.argmax(-1))
    else:
        assert error.relative <= NO_WORSE * eager_error.relative


@pytest.fixture(scope="module")
def prompts():
    return torch.randint(0, 97, (3, PROMPT))


@pytest.fixture(scope="module")
def backend():
    return Backend(Options(cudagraph_mode="FULL_DECODE_ONLY", capture_sizes="3,4"))


def test_asynchronous_is_synchronous_is_uncaptured(models, prompts, backend):
    torch._dynamo.reset()
    model = models("float32")
    expected = decode_loop(
        model, prompts, max_new_tokens=STEPS, backend=Backend(), asynchronous=False
    )
    for asynchronous in (True, False):
        got = decode_loop(
            model, prompts, max_new_tokens=STEPS, backend=backend, asynchronous=asynchronous
        )
        assert torch.equal(got, expected)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_early_stop(models, prompts, asynchronous):
    model = models("float32")
    free = decode_loop(model, prompts, max_new_tokens=20, backend=None)
    ends = sorted({int(row[PROMPT + step]) for row, step in zip(free, (3, 9, 6), strict=True)})
    steps = []
    got = decode_loop(
        model,
        prompts,
        max_new_tokens=20,
        eos_token_id=ends,
        pad_token_id=-7,
        backend=None,
        stream=steps.append,
        asynchronous=asynchronous,
    )
    length = got.shape[1] - PROMPT
    assert length <= 10
    for row, whole in zip(got[:, PROMPT:], free[:, PROMPT:], strict=True):
        stop = next(i for i, token in enumerate(whole.tolist()) if token in ends) + 1
        assert torch.equal(row[:stop], whole[:stop])
        assert row[stop:].eq(-7).all()
    assert torch.equal(torch.stack(steps, 1), got[:, PROMPT:])


def test_end_at_the_first_token(models, prompts):
    model = models("float32")
    first = decode_loop(model, prompts[:1], max_new_tokens=1, backend=None)
    got = decode_loop(
        model, prompts[:1], max_new_tokens=9, eos_token_id=int(first[0, -1]), backend=None
    )
    assert torch.equal(got, first)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_next_step_is_launched_before_a_result_is_read(asynchronous):
    """The second step starts while the first result is still unread, unless all is in turn."""
    started = [threading.Event() for _ in range(3)]
    count, ahead = iter(range(3)), []

    def step(tokens):
        started[next(count)].set()
        tokens.add_(1)

    def read(tokens):
        if int(tokens[0]) < 3:
            following = started[int(tokens[0])]
            ahead.append(following.wait(timeout=60) if asynchronous else following.is_set())

    start = torch.zeros(2, 1, dtype=torch.int64)
    got = decode_loop(step, start, max_new_tokens=3, stream=read, asynchronous=asynchronous)
    assert got.tolist() == [[0, 1, 2, 3]] * 2
    assert ahead == [asynchronous] * 2


def test_surplus_step_is_dropped():
    launched = []

    def step(tokens):
        launched.append(1)
        tokens.add_(1)

    got = decode_loop(step, torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=50, eos_token_id=3)
    assert got.tolist() == [[0, 1, 2, 3]]
    assert len(launched) in (4, 3)


def test_error_of_a_step_reaches_the_caller():
    def step(tokens):
        raise RuntimeError("broken kernel")

    with pytest.raises(RuntimeError, match="broken kernel"):
        decode_loop(step, torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=5)


def test_decoder_keeps_its_graph_for_the_next_prompts(models, backend):
    torch._dynamo.reset()
    model, begin = models("float32"), len(backend.runners)
    decoder = Decoder.of(model, 3, 30, backend=backend)
    for _ in range(3):
        prompts = torch.randint(0, 97, (3, PROMPT))
        got = decode_loop(decoder, prompts, max_new_tokens=20)
        plain = decode_loop(model, prompts, max_new_tokens=20, backend=None)
        assert torch.equal(got, plain)
    (runner,) = backend.runners[begin:]
    assert (runner.counters.captures, runner.counters.warm_ups) == (1, 1)
    with pytest.raises(ValueError, match="do not fit"):
        decode_loop(decoder, prompts, max_new_tokens=31)


def test_an_eager_decoder_has_captured_before_the_first_prompt(models, prompts):
    torch._dynamo.reset()
    ascend_passes.reset()
    model = models("float32")
    decoder = Decoder.of(model, 3, 30, options={"capture_warm_up": "eager"})
    (report,) = ascend_passes.reports()
    assert report.fired["capture"] == 1
    got = decode_loop(decoder, prompts, max_new_tokens=20)
    assert torch.equal(got, decode_loop(model, prompts, max_new_tokens=20, backend=None))
    (report,) = ascend_passes.reports()
    assert report.fired["capture"] == 1
    assert "of 21 calls 20 replayed one and 0 ran uncaptured" in report.notes[-1]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="need"):
        decode_loop(lambda tokens: None, torch.zeros(2, dtype=torch.int64), max_new_tokens=1)


def test_waits_for_host(models, prompts):
    def bad(model, tokens, cache):
        greedy_step(model, tokens, cache)
        if tokens[0, 0] >= 0:
            tokens.add_(1)
        return tokens.tolist()

    model = models("float32")
    cache = StaticCache(config=model.config, max_cache_len=20)
    assert waits_for_host(greedy_step, model, prompts[:, :1].clone(), cache) == ()
    found = waits_for_host(bad, model, prompts[:, :1].clone(), cache)
    assert [fault.kind for fault in found] == ["host_sync", "host_copy"]
    assert "tokens.tolist()" in found[-1].line


def test_waits_for_host_reads_a_graph(models):
    gm = graph_of(lambda x: x * 2, torch.ones(3))
    assert waits_for_host(gm) == ()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        gm = graph_of(lambda x: torch.nonzero(x), torch.ones(3))
    (fault,) = waits_for_host(gm)
    assert fault.kind == "dynamic_shape"
    assert "nonzero(x)" in fault.line


def test_devices():
    assert device_for("cpu") is device_for("cpu")
    with pytest.raises(ValueError, match="npu, cuda, cpu"):
        device_for("xpu")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_ascend_dense_pads_the_batch_before_it_makes_the_cache(models, prompts, asynchronous):
    torch._dynamo.reset()
    model = models("float32")
    decoder = Decoder.of(model, 3, PROMPT + 12, options={"executor": "eager"})
    assert decoder.tokens.shape == (4, 1)
    got = decode_loop(decoder, prompts, max_new_tokens=12, asynchronous=asynchronous)
    uncaptured = {"executor": "eager", "cudagraph_mode": "NONE"}
    expected = decode_loop(model, prompts, max_new_tokens=12, options=uncaptured)
    assert torch.equal(got, expected)
    assert decoder.cache.layers[0].keys.shape[0] == 4
