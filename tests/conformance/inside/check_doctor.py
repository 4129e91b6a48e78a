"""`doctor` beside the real wheel."""

from __future__ import annotations

import json

import pytest

from ascend_passes import __main__ as command_line
from ascend_passes import doctor, npu
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
    assert findings.missing_operators == ()
    assert findings.healthy
    assert len(findings.systems) == 8


def test_a_missing_operator_is_named(toolkit, monkeypatch):
    everywhere = doctor.exists
    monkeypatch.setattr(doctor, "exists", lambda name: name != "npu_prefetch" and everywhere(name))
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


def test_every_operator_of_ours_is_in_the_wheel():
    assert [name for name in npu.OPERATORS if not doctor.exists(name)] == []
