"""What a caller sees of a compiled function's results: numbers, strides, which share memory with
which, what a write into one does to the others, and gradients; all as with aot_eager."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import ascend_passes

F = torch.nn.functional


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes; NaN and the sign of zero count."""
    flat = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).clone()


def shared(tensors: list[Tensor]) -> list[tuple[int, int, bool]]:
    """The pairs in one memory, and whether they are one tensor."""
    pairs = itertools.combinations(enumerate(tensors), 2)
    return [
        (i, j, a is b)
        for (i, a), (j, b) in pairs
        if a.numel() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    ]


def seen(function, inputs, backend, dynamic=None):
    """All that a caller sees: of the results, then of all tensors after a write into each."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    given = [item.clone() if isinstance(item, Tensor) else item for item in inputs]
    found = torch.compile(function, backend=backend, dynamic=dynamic)(*given)
    results = [item for item in tree_leaves(found) if isinstance(item, Tensor)]
    tensors = [*results, *(item for item in given if isinstance(item, Tensor))]
    facts = [(str(bits(t).tolist()), t.dtype, t.shape, t.stride(), t.is_conj()) for t in tensors]
    facts.append(shared(tensors))
    with torch.no_grad():
        for number, result in enumerate(results):
            if result.is_contiguous():
                result.fill_(number % 2)
    return [*facts, [str(bits(tensor).tolist()) for tensor in tensors]]


def assert_seen_alike(function, *inputs, dynamic=None):
    expected = seen(function, inputs, "aot_eager", dynamic)
    ascend_passes.reset()
    assert seen(function, inputs, "ascend_dense", dynamic) == expected
    assert not any(report.errors for report in ascend_passes.reports())


def two_caches(x):
    keys, values = torch.zeros(2, 3), torch.zeros(2, 3)
    return keys, values, x * 2


def views_of_equal_values(x):
    one, other = x.sin(), x.sin()
    return one.view(-1), other.t(), x.sin().exp()


def normed_twice(x):
    return F.rms_norm(x, (4,), None, 1e-6), F.rms_norm(x, (4,), None, 1e-6)


def split_copies(x):
    first, second = x.exp().chunk(2, -1)
    return first, first.clone(), second.clone().view(-1)


def parts_of_one_call(x):
    largest, where = x.max(0)
    return largest, largest.clone(), where, x.max(0)[0], where.clone()


def updated(x):
    before = x.clone()
    x.add_(1)
    return before, x.clone(), x * 1.0


ALIASING = {
    "two caches": two_caches,
    "equal values": lambda x: (x.exp(), x.exp()),
    "views of equal values": views_of_equal_values,
    "equal calls with two results": lambda x: (*x.max(0), *x.max(0)),
    "a result and its copy": lambda x: ((y := x.sin()), y.clone()),
    "a result and its cast": lambda x: ((y := x.sin()), y.to(y.dtype, copy=True)),
    "a copy of a copy": lambda x: ((y := x.sin()), (z := y.clone()), z.clone()),
    "a copy of a view": lambda x: ((y := x.sin()), y.view(-1).clone()),
    "a copy of a part": split_copies,
    "parts of one call": parts_of_one_call,
    "a product with one": lambda x: ((y := x.sin()), y * 1, y / 1.0, y - 0),
    "integers and zero": lambda x: ((y := x.long()), y + 0, y * torch.ones(3, 4).long()),
    "an input and its copy": lambda x: (x, x.clone(), x * 1),
    "a copy of an input's view": lambda x: (x.view(-1), x.view(-1).clone(), x[1:].clone()),
    "views that change nothing": lambda x: ((y := x.sin()), y.view(3, 4), y.detach(), y[:]),
    "transposed twice": lambda x: ((y := x.sin()), y.t().t(), y.permute(0, 1)),
    "two norms": normed_twice,
    "a written input": updated,
    "one tensor twice": lambda x: ((y := x.sin()), y),
    "a constant": lambda x: (torch.ones(3), torch.tensor([1.0, 1.0, 1.0]), torch.ones(3), x + 1),
}


@pytest.mark.parametrize("name", ALIASING)
@torch.no_grad()
def test_results_share_memory_as_without_the_passes(name):
    assert_seen_alike(ALIASING[name], torch.randn(3, 4))


@torch.no_grad()
@pytest.mark.parametrize("backend", ["aot_eager", "ascend_dense"])
def test_values_in_front_of_a_graph_break_stay_apart(backend):
    def change(x):
        y = x.sin()
        old = y.clone()
        keys, values = torch.zeros(2), torch.zeros(2)
        torch._dynamo.graph_break()
        y.add_(1)
        keys[0], values[1] = 1.0, -1.0
        return y - old, keys, values

    found = torch.compile(change, backend=backend)(torch.ones(2))
    for one, other in zip(found, ([1.0, 1.0], [1.0, 0.0], [0.0, -1.0]), strict=True):
        torch.testing.assert_close(one, torch.tensor(other))


def loss_for_the_log(x):
    loss = x.sin().sum()
    return loss, loss.detach().clone()


def written_copy(x):
    one, other = (y := x.sin()), y.clone()
    other.mul_(2)
    return (one * other).sum()


SAVED = {
    "exp": lambda x: x.exp().clone(),
    "sigmoid": lambda x: x.sigmoid() * 1,
    "softmax": lambda x: x.softmax(-1).clone(),
    "sqrt": lambda x: x.abs().sqrt().to(x.dtype, copy=True),
    "tanh": lambda x: x.tanh() / 1,
}


def gradient(function, backend, after):
    torch._dynamo.reset()
    x = torch.linspace(0.1, 1.2, 12).view(3, 4).requires_grad_()
    after(torch.compile(function, backend=backend)(x))
    return x.grad


@pytest.mark.parametrize("name", SAVED)
def test_a_result_is_not_what_backward_has_saved(name):
    def after(result):
        result.mul_(2)
        result.sum().backward()

    found, expected = (
        gradient(SAVED[name], backend, after) for backend in ("ascend_dense", "aot_eager")
    )
    assert torch.equal(found, expected)


def both_written(results):
    one, other = results
    other.mul_(2)
    (one * other).sum().backward()


def first_only(results):
    loss, log = results
    assert loss.requires_grad and not log.requires_grad
    loss.backward()


@pytest.mark.parametrize(
    ("function", "after"),
    [
        (lambda x: ((y := x.sin()), y.clone()), both_written),
        (lambda x: (x.sin(), x.sin()), both_written),
        (loss_for_the_log, first_only),
        (lambda x: ((y := x.sin().sum()), y.detach()), first_only),
    ],
)
def test_gradients_of_results_that_are_equal(function, after):
    assert torch.equal(
        gradient(function, "ascend_dense", after), gradient(function, "aot_eager", after)
    )


def test_two_gradients_are_two_tensors():
    def of(backend):
        torch._dynamo.reset()
        x, y = (torch.linspace(0, 1, 4).requires_grad_() for _ in range(2))
        result = torch.compile(lambda x, y: (x + y).sin(), backend=backend)(x, y)
        return shared(list(torch.autograd.grad(result.sum(), (x, y))))

    assert of("ascend_dense") == of("aot_eager")


X = torch.arange(24.0).view(2, 3, 4) - 7.5
Z = torch.tensor([0.0, -0.0, 1.5, float("inf"), -float("inf"), float("nan")])
C = torch.complex(*torch.meshgrid(Z, Z, indexing="ij"))
MASK = torch.tensor([True, False, True, False])
NUMBERS = {
    "slices": (lambda x: [x[a:b:s] * 2 for a, b, s in BOUNDS], torch.arange(10.0)),
    "product of masks": (lambda x, m: (x[m * m], ~(m * m), torch.where(m * m, x, 0)), Z[:4], MASK),
    "sum of masks": (lambda m: (m + False, m * True, m * torch.ones(4).bool(), m + m), MASK),
    "square of integers": (lambda x: (x * x, x.square(), x.char() * x.char()), X.long() * 99),
    "square of complex": (lambda x: (x * x, x.square()), C),
    "square of half": (lambda x: (x.half() * x.half(), x.bfloat16() * x.bfloat16()), X * 1e3),
    "signs of zero": (lambda x: (1 / (x + 0.0), 1 / (x + -0.0), x * 0.0, x * -0.0), Z),
    "signs of filled zeros": (
        lambda x: (torch.full((2,), 0.0), torch.full((2,), -0.0), x.clamp(0.0), x.clamp(-0.0)),
        Z,
    ),
    "angles of zero": (lambda x: [torch.atan2(torch.full((6,), z), x) for z in (0.0, -0.0)], Z),
    "complex identities": (
        lambda x: [torch.stack([y, y]) for y in (x - 0, x * 1, x / 1, x + 0, x * 0, x - 0.0)],
        C,
    ),
    "a scaled sum": (
        lambda x: (torch.add(torch.zeros_like(x), x, alpha=7) * 2, torch.add(x, 0, alpha=7) * 2),
        X.long(),
    ),
    "channels last": (
        lambda x: [x[None].to(t, memory_format=torch.channels_last) for t in DTYPES],
        X,
    ),
    "channels last back": (
        lambda x: [
            y.to(t, memory_format=torch.contiguous_format) for y in [last(x)] for t in DTYPES
        ],
        X,
    ),
    "preserved": (lambda x: [last(x).to(t) for t in DTYPES] + [x.mT.to(t) for t in DTYPES], X),
    "one row": (lambda x: [x[:1, :, :1].contiguous(), x[:1].mT.contiguous().half()], X),
    "a cast that is viewed": (
        lambda x: (
            x[None]
            .to(torch.bfloat16, memory_format=torch.channels_last)
            .permute(0, 2, 3, 1)
            .view(-1, 2)
        ),
        X,
    ),
    "numbers transposed": (lambda x: (x.sum().t() + 1, x.sum().transpose(0, 0), x[0, 0].t()), X),
    "mapped": (lambda x: torch.func.vmap(lambda t: t * 2.5)(x), X),
    "written conjugate": (lambda x: torch.view_as_real(x.conj().clone() * 1), C),
    "resolved conjugate": (lambda x: torch.view_as_real(x.conj().resolve_conj()), C),
    "clamped by numbers": (
        lambda x: (x.clamp(min=torch.tensor(0.0)), x.clamp(max=torch.tensor(-0.0))),
        Z,
    ),
    "absolute offsets": (lambda x: x[1].clone().as_strided((2,), (1,), 1) + 1, X),
}
DTYPES = (torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.complex64, torch.float32)
BOUNDS = [
    (start, end, step)
    for start in (None, -12, -3, 0, 4, 12)
    for end in (None, -15, -11, -4, 0, 3, 12)
    for step in (1, 3)
]


def last(x):
    return x[None].contiguous(memory_format=torch.channels_last) + 1


@pytest.mark.parametrize("name", NUMBERS)
@torch.no_grad()
def test_results_have_the_bits_and_the_strides(name):
    assert_seen_alike(*NUMBERS[name])


@torch.no_grad()
def test_slices_of_a_symbolic_size():
    def parts(x):
        return [x[start:end] * 2 for start, end, step in BOUNDS if step == 1]

    assert_seen_alike(parts, torch.arange(10.0), dynamic=True)


@torch.no_grad()
def test_a_copy_of_a_part_lets_the_rest_go():
    """As the last token's logits are taken, while those of all others are freed."""
    last = torch.compile(lambda x: x.sin()[-1:].clone(), backend="ascend_dense")(torch.rand(50, 3))
    assert last.untyped_storage().nbytes() == last.nbytes


def test_a_copy_of_a_view_may_be_written_where_gradients_are_asked_for():
    x = torch.rand(3, 4, requires_grad=True)
    copied = torch.compile(lambda x: x.tanh().t().contiguous().t().clone(), backend="ascend_dense")
    copied(x).mul_(2).sum().backward()
    torch.testing.assert_close(x.grad, 2 * (1 - x.detach().tanh().square()))
