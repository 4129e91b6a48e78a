"""A buffer becomes uninitialized only where no element is read before it is written."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from ascend_passes.engine.normalize import normalize
from ascend_passes.ir.graph import Context
from ascend_passes.ir.trace import compile_inference
from ascend_passes.passes.writes.eliminate_zeros import eliminate_zeros
from ascend_passes.report.value import Report

aten = torch.ops.aten
ROWS, WIDTH = 6, 5
EMPTIES = (aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default)
POISON = float("nan")


def poison(gm: fx.GraphModule) -> None:
    """Uninitialized memory holds NaN, or -999 where there is none."""
    for node in list(gm.graph.nodes):
        if node.target in EMPTIES:
            with gm.graph.inserting_after(node):
                fill = POISON if node.meta["val"].dtype.is_floating_point else -999
                full = gm.graph.call_function(aten.full_like.default, (node, fill))
            node.replace_all_uses_with(full, delete_user_cb=lambda user, new=full: user is not new)
    gm.recompile()


def run(function: Callable, *inputs: Tensor, dynamic: bool = False) -> tuple[Report, int]:
    """Compare with eager, bit by bit; the report and the number of empty buffers."""
    found = []

    def compiler(gm: fx.GraphModule, _: object) -> Callable:
        normalize(gm.graph)
        report = eliminate_zeros(gm.graph, Context())
        gm.graph.lint()
        found.append((report, sum(node.target in EMPTIES for node in gm.graph.nodes)))
        poison(gm)
        return gm

    torch._dynamo.reset()
    with torch.no_grad():
        call = torch.compile(
            function, backend=lambda g, i: compile_inference(g, i, compiler), dynamic=dynamic
        )
        got, wanted = call(*copy.deepcopy(inputs)), function(*copy.deepcopy(inputs))
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, wanted)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        view = {4: torch.int32, 8: torch.int64}[a.element_size()]
        assert torch.equal(a.contiguous().view(view), b.contiguous().view(view))
    return found[-1]


def x_of(*shape: int) -> Tensor:
    return torch.randn(shape)


MAKERS = {
    "zeros": lambda x: torch.zeros(ROWS, WIDTH),
    "zeros_like": torch.zeros_like,
    "new_zeros": lambda x: x.new_zeros(ROWS, WIDTH),
    "full": lambda x: torch.full((ROWS, WIDTH), 0.0),
    "full_like": lambda x: torch.full_like(x, 0.0),
    "new_full": lambda x: x.new_full((ROWS, WIDTH), 0.0),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_kind_of_zeros_that_is_copied_over(make):
    def step(x):
        buffer = make(x)
        buffer.copy_(x * 2)
        return buffer + 1

    report, empties = run(step, x_of(ROWS, WIDTH))
    assert report.misses == ()
    assert report.fired["eliminate_zeros"] == 1
    assert empties <= 1


def halves(x):
    buffer = torch.zeros(ROWS, WIDTH)
    buffer[:2] = x[:2]
    buffer[2:] = x[2:] * 2
    return buffer


def rows_in_a_loop(x):
    buffer = torch.zeros(ROWS, WIDTH)
    for row in range(ROWS):
        buffer[row] = x[row] * (row + 2)
    return buffer


def all_indices(x):
    buffer = torch.zeros(ROWS, WIDTH)
    buffer.index_copy_(0, torch.arange(ROWS - 1, -1, -1), x * 2)
    return buffer


def all_indices_put(x):
    buffer = torch.zeros(WIDTH, ROWS).t()
    buffer[torch.arange(ROWS)] = x * 2
    return buffer


def blocks_of_a_view(x):
    buffer = torch.zeros(ROWS * WIDTH)
    square = buffer.view(ROWS, WIDTH)
    square[:, :3] = x[:, :3]
    square[:, 3:] = x[:, 3:]
    return buffer * 2


def only_the_written_part_is_read(x):
    buffer = torch.zeros(ROWS + 2, WIDTH)
    buffer[:ROWS] = x
    return buffer[:ROWS] * 2


@pytest.mark.parametrize(
    "function",
    [
        halves,
        rows_in_a_loop,
        all_indices,
        all_indices_put,
        blocks_of_a_view,
        only_the_written_part_is_read,
    ],
)
def test_parts_that_together_cover_the_buffer(function):
    report, empties = run(function, x_of(ROWS, WIDTH))
    assert (report.misses, empties) == ((), 1)


def a_row_is_missing(x):
    buffer = torch.zeros(ROWS, WIDTH)
    buffer[: ROWS - 1] = x[1:]
    return buffer


def added_to(x):
    buffer = torch.zeros(ROWS, WIDTH)
    buffer[torch.arange(ROWS)] += x
    return buffer


def accumulated(x):
    buffer = torch.zeros(ROWS, WIDTH)
    return buffer.index_put((torch.arange(ROWS),), x, accumulate=True)


def every_other_column(x):
    buffer = torch.zeros(ROWS, WIDTH)
    buffer[:, ::2] = x[:, ::2]
    return buffer


def the_same_index_twice(x):
    return torch.zeros(ROWS, WIDTH).index_copy(0, torch.zeros(ROWS, dtype=torch.long), x)


def read_before(x):
    buffer = torch.zeros(ROWS, WIDTH)
    early = buffer.amax()
    buffer.copy_(x)
    return buffer + early


@pytest.mark.parametrize(
    "function",
    [
        a_row_is_missing,
        added_to,
        accumulated,
        every_other_column,
        the_same_index_twice,
        read_before,
    ],
)
def test_zeros_that_are_read_stay(function):
    report, empties = run(function, x_of(ROWS, WIDTH))
    assert empties == 0
    assert any("not written" in miss.reason for miss in report.misses)


def test_an_unknown_index_proves_nothing():
    def step(x, index):
        return torch.zeros(ROWS, WIDTH).index_copy(0, index, x)

    report, empties = run(step, x_of(ROWS, WIDTH), torch.randperm(ROWS))
    assert empties == 0 and len(report.misses) == 1


def with_a_gap(x: Tensor, y: Tensor) -> Tensor:
    rows = x.shape[0]
    buffer = torch.zeros(3 * rows, WIDTH).slice_scatter(x, 0, 0, rows)
    return buffer.slice_scatter(x, 0, 2 * rows, 3 * rows) * y.sum()


@pytest.mark.parametrize(
    ("function", "proved"),
    [
        (
            lambda x, y: (
                torch.zeros(x.shape[0] + y.shape[0], WIDTH)
                .slice_scatter(x, 0, 0, x.shape[0])
                .slice_scatter(y, 0, x.shape[0], x.shape[0] + y.shape[0])
            ),
            True,
        ),
        (
            lambda x, y: torch.zeros(x.shape[0] + y.shape[0], WIDTH).slice_scatter(
                x, 0, 0, x.shape[0]
            ),
            False,
        ),
        (lambda x, y: torch.zeros(x.shape[0], WIDTH).copy_(x * 2) + y.sum(), True),
        (with_a_gap, False),
    ],
)
def test_symbolic_sizes(function, proved):
    report, _ = run(function, x_of(ROWS, WIDTH), x_of(ROWS + 3, WIDTH), dynamic=True)
    assert report.fired["eliminate_zeros"] == proved
    assert len(report.misses) == (not proved)


def box(size: int) -> st.SearchStrategy:
    return st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(box(4), box(3), st.booleans()), min_size=1, max_size=6), box(4), box(3))
def test_random_slices(writes, rows, columns):
    def step(x):
        buffer = torch.zeros(4, 3)
        for index, ((top, bottom), (left, right), whole) in enumerate(writes):
            target = slice(None) if whole else slice(left, right)
            buffer[top:bottom, target] = x[top:bottom, target] + index
        return buffer[slice(*rows), slice(*columns)].clone(), buffer[0] * 2

    x = x_of(4, 3)
    _, empties = run(step, x)
    mask = torch.zeros(4, 3)
    for (top, bottom), (left, right), whole in writes:
        mask[top:bottom, slice(None) if whole else slice(left, right)] = 1
    covered = bool(mask[slice(*rows), slice(*columns)].all() and mask[0].all())
    if empties:
        assert covered  # NaN would have shown, had it not been covered
    touched = any(t < b and (w or le < r) for (t, b), (le, r), w in writes)
    assert empties == (covered and touched) or not touched


if not hasattr(torch.ops.vllm, "unified_attention_with_output"):
    torch.library.define(
        "vllm::unified_attention_with_output",
        "(Tensor query, Tensor key, Tensor value, Tensor(a!) output, str layer_name) -> ()",
    )


def test_padded_rows_of_attention_keep_their_zeros():
    operator = torch.ops.vllm.unified_attention_with_output

    def attend(query, key, value, output, layer_name):
        output[:3] = query[:3]  # three real tokens, the rest is padding

    with torch.library._scoped_library("vllm", "IMPL") as library:
        library.impl("unified_attention_with_output", attend, "CPU")
        library._register_fake("unified_attention_with_output", lambda *arguments: None)

        def step(x):
            output = torch.zeros(ROWS, WIDTH)
            operator(x, x, x, output, "layer")
            return output * 2

        report, empties = run(step, x_of(ROWS, WIDTH))
    assert empties == 0
    assert "padded rows" in report.misses[0].reason


def test_attention_gets_memory_without_zeros_where_others_write_all_of_it():
    """Rows of real tokens and padded rows are written in front of attention, in two parts."""
    operator = torch.ops.vllm.unified_attention_with_output

    def attend(query, key, value, output, layer_name):
        output[:3] += query[:3]  # NaN would show in every row that is read here

    with torch.library._scoped_library("vllm", "IMPL") as library:
        library.impl("unified_attention_with_output", attend, "CPU")
        library._register_fake("unified_attention_with_output", lambda *arguments: None)

        def step(x):
            output = torch.zeros(ROWS, WIDTH)
            output[:4] = x[:4]
            output[4:] = -1.0
            operator(x, x, x, output, "layer")
            return output * 2

        report, empties = run(step, x_of(ROWS, WIDTH))
    assert (empties, report.fired["eliminate_zeros"], report.misses) == (1, 1, ())


SPECIAL = torch.tensor([0.0, -0.0, 1.5, float("inf"), -float("inf"), float("nan")])
INTEGERS = torch.arange(6)


@pytest.mark.parametrize(
    ("function", "x", "goes"),
    [
        (lambda x: x - 0, SPECIAL, True),
        (lambda x: x * 1.0, SPECIAL, True),
        (lambda x: x / 1, SPECIAL, True),
        (lambda x: x * torch.ones(6), SPECIAL, True),
        (lambda x: x - torch.zeros(6), SPECIAL, True),
        (lambda x: x + 0, INTEGERS, True),
        (lambda x: torch.add(x, torch.zeros_like(x), alpha=7), INTEGERS, True),
        (lambda x: 0 * x, INTEGERS, True),
        (lambda x: x + 0, SPECIAL, False),
        (lambda x: 0 * x, SPECIAL, False),
        (lambda x: 0 * x.softmax(0), SPECIAL, False),
        (lambda x: x - torch.full((6,), -0.0), SPECIAL, False),
        (lambda x: torch.sub(x, torch.zeros(6), alpha=-1), SPECIAL, False),
        (lambda x: x + 0.0, INTEGERS, False),
        (lambda x: x * torch.ones(2, 6), SPECIAL, False),
        (lambda x: x * torch.ones(6, dtype=torch.float64), SPECIAL, False),
    ],
)
def test_identities_change_no_bit(function, x, goes):
    report, _ = run(lambda x: (function(x * 2)).abs(), x)
    assert report.fired["eliminate_zeros"] == goes
