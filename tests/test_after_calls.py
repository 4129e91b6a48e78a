"""A graph that is called often on a CPU: compiled later, with eager's bits at every call."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import StaticCache

import ascend_passes
from ascend_passes.executors import after_calls, exact_loops
from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import quantize_model
from tests.slow import slow

LATER = "Inductor's loops run, with the same bits"
EAGER = {"executor": "eager"}
SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-41, -1e-6, 3e38, 1.5, -2.5)


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    monkeypatch.setattr(after_calls, "CALLS", 3)
    monkeypatch.setenv("CI", "true")  # Inductor then refuses to call what it could take apart
    torch._dynamo.reset()
    ascend_passes.reset()
    with torch.no_grad():
        yield


def compiled(function, options=None, **how):
    return torch.compile(function, backend="ascend_dense", options=options, **how)


def notes():
    return [note for report in ascend_passes.reports() for note in report.notes]


def stays(reason):
    return any(note.startswith(f"calls stay eager: {reason}") for note in notes())


@pytest.mark.parametrize("kind", ["float32", pytest.param("W8A8", marks=slow)])
def test_a_model_that_writes_its_cache_gives_the_same_bits_before_and_after(kind):
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    sizes = {"num_hidden_layers": 2, "vocab_size": 128}
    model = small_model("qwen3", dtype, seed=0, **sizes)
    if kind == "W8A8":
        quantize_model(model, "dynamic", torch.randint(0, 128, (2, 16)))

    def step(ids, position, cache):
        given = {"past_key_values": cache, "position_ids": position, "use_cache": True}
        return model(ids, **given).logits

    found = {}
    ids = torch.randint(0, 128, (8, 1, 1))
    for name, options in (("later", None), ("eager", EAGER)):
        torch._dynamo.reset()
        cache = StaticCache(config=model.config, max_cache_len=16)
        run = compiled(step, options, dynamic=False)
        found[name] = [run(one, torch.tensor([[at]]), cache) for at, one in enumerate(ids)]
        found[name] += [one.keys.clone() for one in cache.layers]
    assert LATER in notes()
    for a, b in zip(found["later"], found["eager"], strict=True):
        assert after_calls.is_same(a, b)


def deep(x):
    for _ in range(after_calls.LEAST_OPERATORS):
        x = (x * 1.0009765625 + 0.3).clone()
    return x


def test_what_gives_other_bits_stays_eager(monkeypatch):
    """Were a sum a loop, its order would be Inductor's."""
    monkeypatch.setattr(exact_loops, "LOOPS", exact_loops.LOOPS | {"sum", "exp"})
    run = compiled(lambda x: deep(x).exp().sum(-1))
    x = torch.randn(64, 1000)
    results = {run(x).sum().item() for _ in range(6)}
    assert len(results) == 1
    assert stays("Inductor's loops gave other bits")


def test_a_compiler_that_fails_is_told_and_changes_nothing(monkeypatch):
    results, tried = [], []

    def broken(*given):
        tried.append(len(results))
        raise OSError("no compiler here")

    monkeypatch.setattr(after_calls, "compile_with_inductor", broken)
    run = compiled(deep)
    x = torch.randn(4, 4)
    for _ in range(6):
        results.append(run(x))
    assert all(torch.equal(one, deep(x)) for one in results)
    assert tried == [after_calls.CALLS - 1]
    assert stays("Inductor failed: OSError: no compiler here")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: deep(x) + torch.rand(4),
        lambda x: functional.dropout(deep(x), 0.5),
    ],
    ids=["small", "random", "dropout"],
)
def test_small_graphs_and_random_numbers_stay_eager(function, monkeypatch):
    monkeypatch.setattr(after_calls, "compile_with_inductor", None)
    run = compiled(function)
    for _ in range(6):
        run(torch.randn(4, 4))
    assert not any("stay eager" in note or "loops" in note for note in notes())


def test_results_share_memory_as_eager_ones_do():
    x = torch.randn(4, 4)
    run = compiled(lambda x: (deep(x), x[1:], x))
    for _ in range(6):
        made, part, whole = run(x)
        assert whole.data_ptr() == x.data_ptr()
        assert part.data_ptr() == x[1:].data_ptr()
        assert torch.equal(made, deep(x))
    assert LATER in notes()


def test_sizes_that_change_are_right():
    run = compiled(lambda x: deep(x).mean(-1), dynamic=True)
    for count in (3, 4, 5, 6, 9, 2, 17):
        x = torch.randn(count, 7)
        assert torch.equal(run(x), deep(x).mean(-1))
    assert LATER in notes()


class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return deep(x * self.weight).sum()


def test_training_stays_eager():
    model = Training()
    run = compiled(model)
    with torch.enable_grad():
        for _ in range(6):
            run(torch.randn(4, 4)).backward()
    assert LATER not in notes()


def every_loop(a, b, whole):
    """One call at least of each kind of arithmetic that may be a loop."""
    yield from (a + b, a - b, a * b, a / b, a + 0.1, 0.0 - a, a * 3, a / 7, 0.7 / a, a + 0, a * 1)
    yield from (-a, a.abs(), a.sqrt(), a.rsqrt(), a.reciprocal(), a.square(), a**2)
    yield from (a.floor(), a.ceil(), a.trunc(), torch.where(a > b, a, b))
    yield from (a == b, a != 0, a < b, a <= 1, a > b, a >= -1)
    yield from (
        a.masked_fill(b > 0, 5),
        (a > 0).logical_not(),
        (a > 0) & (b > 0),
        (a > 0) | (b > 0),
    )
    yield from (a.float(), a.double(), a.half(), a.bfloat16(), whole.to(a.dtype), whole.float())
    yield from (whole & 3, whole | 4, ~whole, whole ^ 5, whole * 3 + 1, whole / 3)
    yield from (a.mean(-1), a.mean(0, keepdim=True), (a * b).mean((0, 1)), a.t() @ b)
    yield from (a.flip(0), a.roll(1, 0), torch.cat((a, b), -1), torch.stack((a, b)), a[:, ::2])
    yield torch.zeros_like(a).index_copy(0, whole[:3].long() % 5, b[:3])


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.bfloat16,
        pytest.param(torch.float16, marks=slow),
        pytest.param(torch.float64, marks=slow),
    ],
)
def test_loops_give_eagers_bits_for_every_kind_of_number(dtype):
    generator = torch.Generator().manual_seed(torch.seed() % 2**32)

    def matrix():
        drawn = torch.randn(5, 37, generator=generator)
        drawn *= 10.0 ** torch.randint(-3, 3, (5, 37), generator=generator)
        chosen = torch.randint(len(SPECIAL), (5, 9), generator=generator)
        drawn[:, ::2][:, :9] = torch.tensor(SPECIAL)[chosen]
        return drawn.to(dtype)

    def every(*given):
        return tuple(every_loop(*given))

    later, eager = (compiled(every, options, dynamic=False) for options in (None, EAGER))
    for _ in range(10):
        given = matrix(), matrix(), torch.randint(-9, 9, (37,), generator=generator)
        for found, wanted in zip(later(*given), eager(*given), strict=True):
            assert after_calls.is_same(found, wanted)
    assert LATER in notes(), "\n".join(notes())
