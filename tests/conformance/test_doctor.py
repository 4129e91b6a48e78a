"""`doctor` on a machine without torch_npu, and the executors there."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from packaging.specifiers import SpecifierSet

from ascend_passes import __main__ as command_line
from ascend_passes import npu
from ascend_passes.cli import doctor as doctor_command
from ascend_passes.cli import environment as doctor
from ascend_passes.cli.supported_versions import is_within
from ascend_passes.executors.execute import ExecutorError, chosen, execute
from ascend_passes.ir import trace
from ascend_passes.options.value import Options

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
def test_json_lists_every_operator(capsys):
    command_line.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["operators"] == dict.fromkeys(npu.of_cann(), False)
    assert found["entry_points"] == {
        "torch_dynamo_backends: ascend_dense": True,
        "vllm.general_plugins: ascend_passes": True,
    }
    assert found["mismatch"] is None


@without_torch_npu
def test_an_entry_point_that_is_not_declared_fails_in_ci_too(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "ENTRY_POINTS", (("torch_dynamo_backends", "ascend_sparse"),))
    assert command_line.main(["doctor", "--no-npu"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "entry point torch_dynamo_backends: ascend_sparse: not found" in shown
    assert "Install this package" in shown


def perfect(**changes: object) -> doctor.Environment:
    """The findings of a machine that has everything, but for some."""
    every = dict.fromkeys(npu.of_cann(), True)
    found = doctor.Environment(
        versions={"torch": "2.13.0"},
        device="npu",
        soc="Ascend910B1",
        torch_npu_problem=None,
        operators=every,
        entry_points={"torch_dynamo_backends: ascend_dense": True},
        mismatch=None,
        unsupported={},
        pair="current",
        systems=doctor.systems("npu", (), collectives=True, graphs=True),
        advice=(),
    )
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "words", "status"),
    [
        ({}, [], 0),
        ({"mismatch": "torch is 2.13.0 and torch_npu is 2.11.0"}, [], 1),
        ({"torch_npu_problem": "libascendcl.so is missing"}, [], 1),
        ({"unsupported": {"vllm": "<0.33,>=0.32"}}, [], 1),
        ({"entry_points": {"torch_dynamo_backends: ascend_dense": False}}, [], 1),
        ({"systems": doctor.systems("npu", ("npu_prefetch",), True, True)}, [], 1),
        ({"systems": doctor.systems("npu", (), True, graphs=False)}, [], 1),
        ({"systems": doctor.systems("npu", (), False, True)}, [], 1),
        ({"device": "cpu", "systems": doctor.systems("cpu", (), True, True)}, [], 1),
        ({"device": "cpu", "systems": doctor.systems("cpu", (), True, True)}, ["--no-npu"], 0),
        ({"device": "cpu", "mismatch": "torch is 2.13.0, torch_npu 2.11.0"}, ["--no-npu"], 1),
        ({"systems": doctor.systems("npu", ("npu_prefetch",), True, True)}, ["--no-npu"], 1),
    ],
)
def test_the_exit_status(capsys, monkeypatch, changes, words, status):
    monkeypatch.setattr(doctor_command, "examine", lambda: perfect(**changes))
    assert command_line.main(["doctor", *words]) == status


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "`ascend-passes tune` measures"),
        ({"mismatch": "torch is 2.13.0 and torch_npu is 2.11.0"}, "from the top, then"),
        ({"systems": doctor.systems("npu", (), True, graphs=False)}, "stays as the model wrote it"),
        ({"device": "cpu", "systems": doctor.systems("cpu", (), True, True)}, "ascend-passes demo"),
    ],
)
def test_it_ends_in_what_to_do_next(capsys, monkeypatch, changes, said):
    monkeypatch.setattr(doctor_command, "examine", lambda: perfect(**changes))
    command_line.main(["doctor"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("next: ") and said in last


@pytest.mark.parametrize(
    "version", ["2.10.0", "2.11.0", "2.13.1.post4", "2.13.0+cpu", "2.14.0", "2.14"]
)
@pytest.mark.parametrize("span", [">=2.11,<2.14", "<2.14,>=2.11", ">=2.13", "<2.11"])
def test_a_range_means_what_pip_says(version, span):
    assert is_within(version, span) == SpecifierSet(span).contains(version)


def test_versions_outside_of_the_range_are_told_with_the_fix(monkeypatch):
    metadata = ["torch<2.14,>=2.11", "numpy", "rich>=13", 'vllm<0.33,>=0.32; extra == "vllm"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: metadata)
    installed = {"ascend-passes": "0.1.0", "torch": "2.10.0", "vllm": "0.32.1", "triton": None}
    found = dict(doctor.outside(installed))
    assert found == {"torch": "<2.14,>=2.11"}
    assert doctor.ranged("torch", "2.10.0", found["torch"]) == (
        "torch 2.10.0 is not supported: `pip install 'torch<2.14,>=2.11'`."
    )
    assert not dict(doctor.outside({**installed, "ascend-passes": None}))


def test_the_ranges_are_the_projects():
    """What is installed here is read with the names that `doctor` knows."""
    versions = {**doctor.distributions(), "vllm": "0.1.0", "torch-npu": "1.11.0"}
    assert set(dict(doctor.outside(versions))) == {"vllm", "torch-npu"}


def test_without_npu_graphs_captured_steps_are_impossible():
    found = {s.name for s in doctor.systems("npu", (), True, graphs=False) if not s.possible}
    assert found == {"full graph", "asynchronous scheduling"}


ABSENT = dict.fromkeys(("torch-npu", "CANN", "HCCL", "vllm", "vllm-ascend"))


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [("2.10.0+cpu", "2.10.0.post4"), ("2.13.1", "2.13.0"), ("2.14.1+cu130", "2.14.0")],
)
def test_the_torch_npu_that_is_asked_for_is_that_of_the_pair(monkeypatch, installed, wanted):
    monkeypatch.setattr(torch, "__version__", installed)
    found = doctor.advice(ABSENT, "cpu", None, (), None, {})
    assert f"Install torch_npu: `pip install torch-npu=={wanted}`." in found


def test_a_torch_in_no_pair_is_told(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.12.1+cpu")
    found = doctor.advice(ABSENT, "cpu", None, (), None, {})
    assert found[0].startswith("Install a torch that the tests run with, 2.10.0, 2.13.0, 2.14.0;")
    assert doctor.examine().pair is None
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert doctor.examine().pair == "current"


@pytest.mark.parametrize(
    ("ascend", "vllm", "wanted"),
    [
        ("0.23.0.post1", "0.32.0", "`pip install vllm==0.23.0`"),
        ("0.23.0", None, "`pip install vllm==0.23.0`"),
        ("0.23.0", "0.23.1+cpu", None),
        ("0.99.0", "0.32.0", None),
        (None, "0.32.0", None),
    ],
)
def test_the_vllm_beside_vllm_ascend_is_that_of_the_pair(ascend, vllm, wanted):
    found = doctor.vllm_ascend_advice({"vllm-ascend": ascend, "vllm": vllm})
    assert wanted in found[0] if wanted else not found


@pytest.mark.parametrize(
    ("installed", "fits"),
    [(None, True), ("2.13.0", True), ("2.13.1.post1", True), ("2.1.0", False), ("2.130.0", False)],
)
def test_torch_npu_must_be_of_the_minor_release_of_torch(monkeypatch, installed, fits):
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    found = doctor.version_mismatch(installed)
    assert (found is None) == fits
    assert fits or installed in found


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
