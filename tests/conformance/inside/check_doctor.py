"""`doctor` beside the real wheel."""

from __future__ import annotations

import json

import pytest
import torch

from ascend_passes import __main__ as command_line
from ascend_passes import npu
from ascend_passes.cli import environment as doctor
from tests.conformance import build


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A CANN folder of the usual layout."""
    (tmp_path / "x86_64-linux" / "lib64").mkdir(parents=True)
    (tmp_path / "x86_64-linux" / "lib64" / "libhccl.so").touch()
    info = tmp_path / "x86_64-linux" / "ascend_toolkit_install.info"
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.5.0\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    return tmp_path


def test_everything_is_found(toolkit):
    findings = doctor.examine()
    assert findings.device == "npu"
    assert findings.soc == "Ascend910B1"
    assert findings.versions["torch-npu"].startswith(build.VERSION)
    assert findings.versions["CANN"] == "8.5.0"
    assert findings.operators == dict.fromkeys(npu.of_cann(), True)
    assert findings.mismatch is None
    assert findings.healthy
    assert len(findings.systems) == 8


def test_a_missing_operator_is_named(toolkit, monkeypatch):
    everywhere = doctor.has_kernel
    monkeypatch.setattr(
        doctor, "has_kernel", lambda name: name != "npu_prefetch" and everywhere(name)
    )
    findings = doctor.examine()
    assert findings.missing_operators == ("npu_prefetch",)
    impossible = [system for system in findings.systems if not system.possible]
    assert [system.name for system in impossible] == ["weight prefetch"]
    assert "npu_prefetch" in impossible[0].reason
    assert any("Upgrade torch_npu" in sentence for sentence in findings.advice)


def test_exit_status_and_json(toolkit, capsys, monkeypatch):
    assert command_line.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"]
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit / "nowhere"))
    assert command_line.main(["doctor"]) == 1
    assert "Install CANN" in capsys.readouterr().out


def test_another_release_of_torch_is_a_fault(toolkit, capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.12.0")
    assert command_line.main(["doctor"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"torch is 2.12.0 and torch_npu is {build.VERSION}" in shown
    assert "pip install torch-npu==2.12.*" in shown


def test_graphs_are_looked_for(toolkit, monkeypatch):
    assert doctor.has_graphs(True)
    monkeypatch.delattr(torch.npu, "NPUGraph")
    impossible = {system.name for system in doctor.examine().systems if not system.possible}
    assert impossible == {"full graph", "asynchronous scheduling"}


def test_every_operator_of_ours_is_in_the_wheel():
    assert [name for name in npu.of_cann() if not doctor.has_kernel(name)] == []
