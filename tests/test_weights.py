"""Whatever way weights are written, the next call uses what they are then; old ones are freed."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

import ascend_passes
from ascend_passes.ir import content

WIDTH = 16


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    ascend_passes.reset()
    yield
    torch._dynamo.reset()


def quantized(x: Tensor, scale: Tensor) -> Tensor:
    """Rounded to steps, but not to those of int8, whose operator has no negative zero."""
    return torch.clamp(torch.round(x / scale), -120, 120) * scale


class Model(nn.Module):
    """Two equal scales for one input, merged; a gain and a reciprocal, folded; a zero bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.full((1,), 0.25))
        self.two = nn.Parameter(torch.full((1,), 0.25))
        self.gain = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.register_buffer("divisor", torch.rand(WIDTH) + 1)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) * (1 + self.gain.float())
        return quantized(y, self.one) - 2 * quantized(y, self.two) + y * self.divisor.reciprocal()


class Embedded(nn.Module):
    """A model of ids, which is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(8, WIDTH), Model()

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(self.embedding(ids))


class Other(Embedded):
    """A model with a compiled graph of its own."""


def data_copy(m: Model) -> None:
    for p in m.parameters():
        p.data.copy_(torch.rand_like(p) + 0.1)


def data_mul(m: Model) -> None:
    m.gain.data.mul_(3)
    m.two.data.mul_(3)


def data_add(m: Model) -> None:
    for p in m.parameters():
        p.data += 0.125


def data_fill(m: Model) -> None:
    m.two.data.fill_(0.75)


def data_set_all(m: Model) -> None:
    for p in m.parameters():
        p.data = torch.rand_like(p) + 0.1


def data_at_the_old_address(m: Model) -> None:
    """A new tensor often gets the memory of the one that was freed in front of it."""
    for _ in range(4):
        for p in m.parameters():
            p.data = torch.empty(0)
        for p, size in ((m.one, 1), (m.two, 1), (m.gain, WIDTH)):
            p.data = torch.rand(size) + 0.1
        m.linear.weight.data = torch.rand(WIDTH, WIDTH)
        m.linear.bias.data = torch.rand(WIDTH)


def numpy_write(m: Model) -> None:
    m.two.detach().numpy()[:] = 0.5
    m.divisor.numpy()[3] = 7


def dlpack_write(m: Model) -> None:
    torch.from_dlpack(m.gain.detach()).mul_(2)
    torch.from_dlpack(m.two.detach()).fill_(0.5)


def storage_write(m: Model) -> None:
    m.gain.untyped_storage().copy_(torch.rand(WIDTH).untyped_storage())
    m.two.untyped_storage().copy_(torch.rand(1).untyped_storage())


def storage_bytes(m: Model) -> None:
    m.two.untyped_storage()[3] = 63


def version_preserved(m: Model) -> None:
    with torch.autograd._unsafe_preserve_version_counter((m.gain, m.two)):
        m.gain.mul_(2)
        m.two.mul_(2)


def optimizer(kind: type, **options: bool) -> Callable[[Model], None]:
    def step(m: Model) -> None:
        chosen = kind(m.parameters(), lr=0.05, **options)
        with torch.enable_grad():
            m(torch.randn(3, WIDTH)).square().sum().backward()
        m.two.grad = torch.ones_like(m.two)
        chosen.step()

    return step


def load_state_dict(m: Model) -> None:
    m.load_state_dict({k: torch.rand_like(v) + 0.1 for k, v in m.state_dict().items()})


def load_and_assign(m: Model) -> None:
    state = {k: torch.rand_like(v) + 0.1 for k, v in m.state_dict().items()}
    m.load_state_dict(state, assign=True)


def new_parameters(m: Model) -> None:
    m.two, m.gain = nn.Parameter(torch.rand(1) + 0.1), nn.Parameter(torch.rand(WIDTH))


def swapped(m: Model) -> None:
    torch.utils.swap_tensors(m.gain, nn.Parameter(torch.rand(WIDTH)))
    torch.utils.swap_tensors(m.two, nn.Parameter(torch.rand(1) + 0.1))


def set_source(m: Model) -> None:
    m.gain.set_(torch.rand(WIDTH))
    m.two.set_(torch.rand(1) + 0.1)


def in_place(m: Model) -> None:
    for p in m.parameters():
        p.mul_(1.5).add_(0.01)
    m.two.mul_(2)


def foreach(m: Model) -> None:
    torch._foreach_mul_(list(m.parameters()), 1.5)
    torch._foreach_add_([m.two], 0.5)


def under_inference_mode(m: Model) -> None:
    with torch.inference_mode():
        m.gain.mul_(2)
        m.two.mul_(2)


def through_views(m: Model) -> None:
    m.gain[2:5] = 9
    m.gain.view(4, 4)[1].zero_()
    m.two.view(-1)[0] = 0.625


def through_detached(m: Model) -> None:
    m.gain.detach().mul_(2)
    m.two.detach().mul_(2)


def from_a_vector(m: Model) -> None:
    vector = nn.utils.parameters_to_vector(m.parameters())
    nn.utils.vector_to_parameters(torch.rand_like(vector) + 0.1, m.parameters())


def shared_memory(m: Model) -> None:
    m.share_memory()
    m.two.data.mul_(2)


def signs_of_zero(m: Model) -> None:
    m.gain.data.fill_(-1.0)
    m.divisor.data[:8] = -0.0


def not_a_number(m: Model) -> None:
    m.gain.data[1] = float("nan")
    m.two.data.fill_(float("inf"))


def both_alike(m: Model) -> None:
    m.one.data.fill_(0.5)
    m.two.data.fill_(0.5)


def buffers(m: Model) -> None:
    m.divisor.data.mul_(2)
    m.divisor = torch.rand(WIDTH) + 2


def compiled_writer(m: Model) -> None:
    torch.compile(lambda: (m.gain.mul_(2), m.two.add_(0.5)), backend="ascend_dense")()


WAYS = [
    data_copy,
    data_mul,
    data_add,
    data_fill,
    data_set_all,
    data_at_the_old_address,
    numpy_write,
    dlpack_write,
    storage_write,
    storage_bytes,
    version_preserved,
    load_state_dict,
    load_and_assign,
    new_parameters,
    swapped,
    set_source,
    in_place,
    foreach,
    under_inference_mode,
    through_views,
    through_detached,
    from_a_vector,
    shared_memory,
    signs_of_zero,
    not_a_number,
    both_alike,
    buffers,
    compiled_writer,
]
OPTIMIZERS = [
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.SGD, {"fused": True}),
    (torch.optim.Adagrad, {"fused": True}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.AdamW, {"foreach": False}),
]
EVERY = [pytest.param(way, id=way.__name__) for way in WAYS] + [
    pytest.param(
        optimizer(kind, **given), id=f"{kind.__name__}-{'-'.join(map(str, given.items()))}"
    )
    for kind, given in OPTIMIZERS
]


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two results are alike bit by bit."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("way", EVERY)
@torch.no_grad()
def test_a_written_weight_counts_at_the_next_call(way: Callable[[Model], None]) -> None:
    model, x = Model(), torch.randn(5, WIDTH)
    step = torch.compile(model, backend="ascend_dense")
    assert equal(step(x), model(x))
    (report,) = ascend_passes.reports()
    assert report.fired["merge_equal"] == 1 and report.fired["fold_constants"] >= 2
    before = model(x)
    for turn in range(2):
        way(model)
        assert turn or not equal(before, model(x))
        for _ in range(2):
            assert equal(step(x), model(x))


@torch.no_grad()
def test_a_functional_call_uses_the_weights_that_it_is_given() -> None:
    model, x = Model(), torch.randn(5, WIDTH)
    run = lambda given: torch.func.functional_call(model, given, (x,))  # noqa: E731
    step = torch.compile(run, backend="ascend_dense")
    for _ in range(3):
        given = {name: torch.rand_like(p) + 0.1 for name, p in model.named_parameters()}
        assert equal(step(given), run(given))


CAPTURED = {"cudagraph_mode": "FULL", "capture_sizes": "5"}


IDS = torch.tensor([[1, 5, 2, 7, 3]])


@pytest.mark.parametrize("way", [data_copy, data_set_all, numpy_write, in_place])
@torch.no_grad()
def test_a_captured_graph_follows_as_well(way: Callable[[Model], None]) -> None:
    model = Embedded()
    step = torch.compile(model, backend="ascend_dense", options=CAPTURED)
    for _ in range(3):
        assert equal(step(IDS), model(IDS))
    (report,) = ascend_passes.reports()
    assert report.fired["capture"] == 1
    for _ in range(3):
        way(model.inner)
        for _ in range(3):
            assert equal(step(IDS), model(IDS))


@pytest.mark.parametrize("options", [{}, CAPTURED], ids=["plain", "captured"])
@pytest.mark.parametrize("every", [False, True], ids=["one", "all"])
@torch.no_grad()
def test_where_content_is_not_compared_a_refresh_reads_it(
    options: dict[str, str], every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on other devices, where the host would wait for a comparison."""
    monkeypatch.setattr(content, "comparison_kind", lambda tensor, index: ("identity",))
    model, other = Embedded(), Other()
    step, second = (
        torch.compile(m, backend="ascend_dense", options=options or None) for m in (model, other)
    )
    for _ in range(3):
        assert equal(step(IDS), model(IDS)) and equal(second(IDS), other(IDS))
    for m in (model, other):
        data_copy(m.inner)
    ascend_passes.refresh(None if every else model)
    for _ in range(3):
        assert equal(step(IDS), model(IDS))
        assert equal(second(IDS), other(IDS)) is every
    for way in (in_place, load_and_assign, data_at_the_old_address, set_source):
        way(model.inner)
        for _ in range(2):
            assert equal(step(IDS), model(IDS)), way


def test_nothing_rests_on_content_where_gradients_are_asked_for() -> None:
    model, x = Model(), torch.randn(5, WIDTH)
    torch.compile(model, backend="ascend_dense")(x).sum().backward()
    assert len(ascend_passes.reports()) == 2
    for report in ascend_passes.reports():
        assert not {"merge_equal", "fold_constants", "share_tables"} & set(report.fired)


@pytest.mark.parametrize("off", ["-merge_equal,-fold_constants", "-*"])
@torch.no_grad()
def test_it_can_be_switched_off(off: str) -> None:
    model, x = Model(), torch.randn(5, WIDTH)
    step = torch.compile(model, backend="ascend_dense", options={"passes": off})
    assert equal(step(x), model(x))
    (report,) = ascend_passes.reports()
    assert not {"merge_equal", "fold_constants"} & set(report.fired)


class Pairs(nn.Module):
    """Many pairs of equal scales, each for one input."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.full((1,), 0.25) for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        for one, other in zip(self.scales[::2], self.scales[1::2], strict=True):
            x = quantized(x, one) + quantized(x, other) * 0.75
        return x


@torch.no_grad()
def test_a_pair_that_parts_leaves_the_others_merged_and_in_the_end_none_is() -> None:
    model, x = Pairs(), torch.randn(5, WIDTH)
    step = torch.compile(model, backend="ascend_dense")
    for index in range(8):
        assert equal(step(x), model(x))
        model.scales[(2 * index) % 8].data.fill_(0.5 + index)
    merged = [report.fired.get("merge_equal", 0) for report in ascend_passes.reports()]
    assert merged == [4, 3, 2, 1, 0]


class Norms(nn.Module):
    """Two norms of equal gains that see different rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.l, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.b(self.l(self.a(x))))


@torch.no_grad()
def test_equal_gains_of_different_rows_are_not_merged() -> None:
    torch.compile(Norms(), backend="ascend_dense")(torch.randn(3, WIDTH))
    (report,) = ascend_passes.reports()
    assert "merge_equal" not in report.fired


def trained(backend: str, steps: int, fused: bool = True) -> list[float]:
    """The losses of a run with evaluations in between."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Norms()
    run = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    losses = []
    for _ in range(steps):
        x = torch.randn(32, WIDTH)
        loss = (run(x) - x.sum(-1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            losses += [loss.item(), run(x).sum().item()]
    return losses


def test_training_with_a_fused_optimizer_ends_where_it_does_elsewhere() -> None:
    assert trained("ascend_dense", 12) == pytest.approx(trained("aot_eager", 12), rel=1e-4)


def qwen3_losses(backend: str, steps: int) -> list[float]:
    """The losses of a small Qwen3 of transformers, trained by a fused optimizer."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen3ForCausalLM(config)
    run = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses = []
    for _ in range(steps):
        ids = torch.randint(0, 97, (2, 12))
        loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_qwen3_trained_by_a_fused_optimizer_loses_as_elsewhere() -> None:
    steps = int(os.environ.get("ASCEND_PASSES_TRAINING_STEPS", "8"))
    found, wanted = qwen3_losses("ascend_dense", steps), qwen3_losses("aot_eager", steps)
    assert found == pytest.approx(wanted, rel=1e-5)


def replace_parameter(model: nn.Linear) -> None:
    model.weight = nn.Parameter(torch.rand_like(model.weight))


def assign(model: nn.Linear) -> None:
    model.load_state_dict(
        {k: torch.rand_like(v) for k, v in model.state_dict().items()}, assign=True
    )


def new_data(model: nn.Linear) -> None:
    model.weight.data = torch.rand_like(model.weight)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("replace", [replace_parameter, assign, new_data])
def test_replaced_weights_are_freed(replace: Callable[[nn.Linear], None], grad: bool) -> None:
    model, x = nn.Linear(WIDTH, WIDTH), torch.randn(2, WIDTH)
    step = torch.compile(model, backend="ascend_dense")
    with torch.set_grad_enabled(grad):
        step(x)
        old = weakref.ref(model.weight.untyped_storage())
        storage = torch.multiprocessing.reductions.StorageWeakRef(model.weight.untyped_storage())
        del old
        replace(model)
        gc.collect()
        assert storage.expired()
        torch.testing.assert_close(step(x), model(x))


@torch.no_grad()
def test_a_dropped_model_is_freed_although_its_reports_are_kept() -> None:
    model = Model()
    torch.compile(model, backend="ascend_dense")(torch.randn(2, WIDTH))
    weak = [weakref.ref(p) for p in model.parameters()]
    del model
    torch._dynamo.reset()
    gc.collect()
    assert ascend_passes.reports()
    assert [ref() for ref in weak] == [None] * len(weak)


def test_explain_holds_no_weights() -> None:
    model = Model()
    report = ascend_passes.explain(model, torch.randn(2, WIDTH))
    assert report.fired["merge_equal"] == 1
    weak = [weakref.ref(p) for p in model.parameters()]
    del model
    torch._dynamo.reset()
    gc.collect()
    assert [ref() for ref in weak] == [None] * len(weak)
