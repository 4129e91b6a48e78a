"""A capture that would break on a device breaks in the recorder, with the kind and the line."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from ascend_passes.capture.decode import Results
from ascend_passes.capture.fault import CaptureError
from ascend_passes.capture.recorder import Recorder
from ascend_passes.capture.recording import RecordedGraph

torch.set_num_threads(1)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def x():
    return torch.tensor([1.0, -2.0, 3.0])


def record(recorder, function, *inputs):
    return recorder.capture(lambda: function(*inputs), inputs, recorder.pool())


def branch(x):
    return x + 1 if x[0] > 0 else x - 1


FAULTS = {
    "item": ("host_sync", lambda x: x * x.sum().item()),
    "branch on data": ("host_sync", branch),
    "float": ("host_sync", lambda x: x * float(x[0])),
    "equal": ("host_sync", lambda x: x if torch.equal(x, x) else -x),
    "cpu": ("host_copy", lambda x: x.cpu()),
    "to cpu": ("host_copy", lambda x: x.to("cpu") + 1),
    "to cpu's device": ("host_copy", lambda x: x.to(torch.device("cpu")) + 1),
    "to the cpu by keyword": ("host_copy", lambda x: x.to(device=torch.device("cpu"))),
    "synchronize": ("synchronize", lambda x: (torch.cuda.synchronize(), x + 1)[1]),
    "synchronize the stand-in": ("synchronize", lambda x: (torch.cpu.synchronize(), x + 1)[1]),
    "tolist": ("host_copy", lambda x: x.tolist()),
    "numpy": ("host_copy", lambda x: x.numpy()),
    "print": ("print", lambda x: print(x)),
    "format": ("print", lambda x: f"{x}"),
    "nonzero": ("dynamic_shape", lambda x: torch.nonzero(x)),
    "unique": ("dynamic_shape", lambda x: torch.unique(x)),
    "masked select": ("dynamic_shape", lambda x: x[x > 0]),
    "masked write": ("dynamic_shape", lambda x: torch.zeros_like(x).index_put_((x > 0,), x[:2])),
    "random": ("random", lambda x: x + torch.rand_like(x)),
    "dropout": ("random", lambda x: torch.nn.functional.dropout(x, 0.5)),
    "multinomial": ("random", lambda x: torch.multinomial(x.abs(), 1)),
    "host constant": ("host_constant", lambda x: x + torch.tensor([1.0, 2.0, 3.0])),
    "resize": ("resized", lambda x: x.resize_(10)),
    "set": ("resized", lambda x: x.set_(torch.zeros_like(x))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_operator_is_refused_with_the_line(recorder, x, name):
    kind, function = FAULTS[name]
    with pytest.raises(CaptureError) as error:
        record(recorder, function, x)
    assert error.value.fault.kind == kind
    assert "test_faults.py" in error.value.fault.line
    graph, _ = record(recorder, lambda x: x + 1, x)  # the device is usable afterwards
    graph.replay()


GOOD = {
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(
        x.view(1, 1, 1, 3), x.view(1, 1, 1, 3), x.view(1, 1, 1, 3)
    ),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "gather": lambda x: x[torch.arange(2)],
    "to its device": lambda x: x.to(x.device, torch.float64),
    "to a sum's device": lambda x: x.to(device=(x + 1).device) * 2,
    "empty filled": lambda x: torch.empty_like(x).copy_(x),
    "out": lambda x: torch.add(x, 1, out=torch.empty_like(x)),
    "views": lambda x: (x * 2).view(3, 1).transpose(0, 1)[:, 1:],
    "split": lambda x: torch.cat((x * 2).split(1)[::-1]),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_steps_replay_with_the_values_of_the_moment(recorder, name):
    x = torch.randn(3)
    graph, result = record(recorder, GOOD[name], x)
    where = result.data_ptr()
    for _ in range(2):
        x.normal_()
        graph.replay()
        assert torch.equal(result, GOOD[name](x))
    assert result.data_ptr() == where


def test_synchronize_is_itself_again_and_other_threads_may(recorder, x):
    plain, inside = torch.cpu.synchronize, []

    def step(x):
        thread = threading.Thread(target=lambda: inside.append(torch.cpu.synchronize()))
        thread.start()
        thread.join()
        return x + 1

    record(recorder, step, x)
    assert inside == [None]
    with pytest.raises(CaptureError):
        record(recorder, lambda x: torch.cpu.synchronize(), x)
    assert torch.cpu.synchronize is plain


def test_the_line_is_the_users_where_the_packages_own_code_reads(recorder, x):
    """Frames of `ascend_passes` outside of `capture/` are no line of the model either."""

    results = Results(1, frozenset(), 0, None)

    def step(x):
        results.take(SimpleNamespace(wait=lambda: x.view(3, 1)))

    with pytest.raises(CaptureError) as error:
        record(recorder, step, x)
    assert error.value.fault.kind == "undeclared_memory"
    assert "results.take" in error.value.fault.line


def test_undeclared_memory(recorder, x):
    stranger = torch.ones(3)
    with pytest.raises(CaptureError, match="neither an input nor made inside"):
        record(recorder, lambda x: x + stranger, x)


def test_input_on_the_host(recorder, x):
    with pytest.raises(CaptureError, match="on the host"):
        record(recorder, lambda x: x + 1, recorder.keep_on_host(x))


def test_nested_capture(recorder, x):
    with pytest.raises(CaptureError) as error:
        record(recorder, lambda x: record(recorder, lambda y: y + 1, x), x)
    assert error.value.fault.kind == "nested_capture"


def test_graph_captured_twice(recorder, x):
    graph, _ = record(recorder, lambda x: x + 1, x)
    with pytest.raises(CaptureError) as error:
        graph.hold(graph._memory, [])
    assert error.value.fault.kind == "captured_twice"


def test_replay_without_capture(recorder):
    with pytest.raises(CaptureError, match="no capture"):
        RecordedGraph(recorder.pool()).replay()


def test_input_moved(recorder, x):
    graph, _ = record(recorder, lambda x: x + 1, x)
    x.data = torch.ones(3)
    with pytest.raises(CaptureError) as error:
        graph.replay()
    assert error.value.fault.kind == "moved_input"


def test_input_freed(recorder):
    x = torch.ones(3)
    graph, _ = record(recorder, lambda x: x.view(3, 1).t() + 1, x)
    del x
    with pytest.raises(CaptureError, match="freed"):
        graph.replay()


def test_memory_outlives_its_tensor(recorder):
    """`load_state_dict(assign=True)` puts another parameter into the memory of the old one."""
    x = torch.ones(3)
    graph, result = record(recorder, lambda x: x + 1, x)
    other = x.detach()
    del x
    graph.replay()
    other.fill_(4)
    graph.replay()
    assert result.tolist() == [5, 5, 5]


def test_memory_that_another_input_got(recorder):
    """A device reads at addresses; whose memory lies there it never knew."""
    page = torch.zeros(16).numpy()
    x = torch.from_numpy(page)
    graph, result = record(recorder, lambda x: x + 1, x)
    del x
    page[:] = 2
    given = torch.from_numpy(page)
    with pytest.raises(CaptureError, match="freed"):
        graph.replay()
    graph.replay([given])
    assert result.tolist() == [3] * 16


def test_synchronize(recorder, x):
    def step(x):
        recorder.synchronize()
        return x + 1

    with pytest.raises(CaptureError) as error:
        record(recorder, step, x)
    assert error.value.fault.kind == "synchronize"
    recorder.synchronize()


@pytest.mark.parametrize("joined", [True, False])
def test_side_stream(recorder, x, joined):
    def step(x):
        with recorder.side_stream() as join:
            y = x * 2
        if joined:
            join()
        return y

    if joined:
        record(recorder, step, x)
        return
    with pytest.raises(CaptureError, match="not joined"):
        record(recorder, step, x)


@pytest.fixture
def group(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield dist.group.WORLD.group_name
    dist.destroy_process_group()


def test_cold_collective(recorder, x, group):
    def step(x):
        reduced = torch.ops._c10d_functional.all_reduce(x, "sum", group)
        return torch.ops._c10d_functional.wait_tensor(reduced)

    with pytest.raises(CaptureError, match="for the first time"):
        record(recorder, step, x)
    recorder.warm_up(lambda: step(x))
    graph, result = record(recorder, step, x)
    x.fill_(7.0)
    graph.replay()
    assert result.tolist() == [7.0] * 3


@pytest.fixture
def doubled_in_place():
    """An operator as vLLM's collectives on a CPU: it says that its result is new."""
    library = torch.library.Library("test_faults", "DEF")
    library.define("double(Tensor x, str group_name) -> Tensor")
    library.impl("double", lambda x, group_name: x.mul_(2), "CPU")
    yield lambda x: torch.ops.test_faults.double(x, "tp")
    library._destroy()


def test_writes_that_no_schema_declares_are_replayed_and_undone(recorder, x, doubled_in_place):
    before = x.clone()
    recorder.warm_up(lambda: doubled_in_place(x.clone()))
    graph, result = record(recorder, lambda x: doubled_in_place(doubled_in_place(x) + 1), x)
    assert x.equal(before)
    graph.replay()
    assert result.equal(2 * (2 * before + 1))
    assert x.equal(2 * before)


@pytest.fixture
def counted_up():
    """The functional form of an operator that writes."""
    library = torch.library.Library("test_functional_forms", "DEF")
    library.define("count_up(Tensor(a!) x) -> ()")
    library.impl("count_up", lambda x: (x.add_(1), None)[1], "CPU")
    form, operator = (
        torch.ops.higher_order.auto_functionalized_v2,
        torch.ops.test_functional_forms.count_up.default,
    )
    yield lambda x: form(operator, _x_base_index=0, _x_alias=True, _all_bases=[x])[1]
    library._destroy()


def test_a_functional_form_is_recorded_as_its_copy_and_its_write(recorder, counted_up):
    x = torch.zeros(3)
    assert recorder.warm_up(lambda: counted_up(x)).tolist() == [1.0] * 3
    graph, result = record(recorder, lambda x: counted_up(x) * 2, x)
    for number in (4.0, 7.0):
        x.fill_(number)
        graph.replay()
        assert result.tolist() == [2 * (number + 1)] * 3
        assert x.tolist() == [number] * 3


def test_capture_leaves_inputs_and_poisons_results(recorder, x):
    before = x.clone()
    graph, result = record(recorder, lambda x: x.add_(1) * 2, x)
    assert torch.equal(x, before)
    assert result.isnan().all()
    graph.replay()
    assert torch.equal(x, before + 1)
    assert torch.equal(result, (before + 1) * 2)


def test_replay_of_another_graph_overwrites_results(recorder, x):
    first, result = record(recorder, lambda x: x + 1, x)
    second, _ = record(recorder, lambda x: x + 2, x)
    first.replay()
    assert not result.isnan().any()
    second.replay()
    assert result.isnan().all()


def test_python_does_not_run_at_replay(recorder, x):
    calls = []
    graph, _ = record(recorder, lambda x: (calls.append(1), x + 1)[1], x)
    graph.replay()
    graph.replay()
    assert calls == [1]


def test_kernels_around_the_dispatcher_are_seen(recorder, x):
    with pytest.raises(CaptureError, match="a result"):
        record(recorder, hidden, x)


def hidden(x):
    """A result that no operator made, like that of a compiled C++ kernel."""
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        return x + 1
