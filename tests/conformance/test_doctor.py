"""`doctor` on a machine without torch_npu, and the executors there."""

from __future__ import annotations

import json

import pytest
import torch

from ascend_passes import __main__ as command_line
from ascend_passes import doctor, trace
from ascend_passes.execute import ExecutorError, chosen, execute
from ascend_passes.options import Options

without_torch_npu = pytest.mark.skipif(
    doctor.has_torch_npu(), reason="tells what happens where torch_npu is not installed"
)


@without_torch_npu
def test_doctor_says_what_to_install(capsys):
    assert command_line.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"].startswith("2.")
    assert found["versions"]["torch-npu"] is None
    assert not any(system["possible"] for system in found["systems"])
    assert any("pip install torch-npu==2." in sentence for sentence in found["advice"])


@without_torch_npu
def test_doctor_succeeds_in_ci_without_an_npu(capsys):
    assert command_line.main(["doctor", "--no-npu"]) == 0
    assert "AddRMSNormQuant" in capsys.readouterr().out


@without_torch_npu
@pytest.mark.parametrize("executor", ["npugraph_ex", "torchair"])
def test_an_executor_without_torch_npu_says_how_to_get_it(executor):
    graph = trace.aot_graph(lambda x: x + 1, torch.ones(3))
    with pytest.raises(ExecutorError, match=r"pip install torch-npu==2\."):
        execute(graph, [torch.ones(3)], Options(executor=executor), "cpu")


@pytest.mark.parametrize("executor", ["auto", "eager", "inductor"])
def test_executors_without_an_npu_compute_the_same(executor):
    def function(x, y):
        return torch.nn.functional.silu(x) * y, x.sum()

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    graph = trace.aot_graph(function, x, y)
    found = execute(graph, [x, y], Options(executor=executor), "cpu")(x, y)
    for mine, theirs in zip(found, function(x, y), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_auto_is_eager_without_an_npu():
    assert chosen(Options(), "cpu") == "eager"
    assert chosen(Options(), "cuda") == "eager"


def test_inductor_is_refused_on_npu():
    graph = trace.aot_graph(lambda x: x + 1, torch.ones(3))
    with pytest.raises(ExecutorError, match="CUDA and CPU"):
        execute(graph, [torch.ones(3)], Options(executor="inductor"), "npu")
