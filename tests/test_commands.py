import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from ascend_passes.__main__ import main
from ascend_passes.commands.demo import save_model
from ascend_passes.commands.new import TEMPLATE


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    save_model(folder, torch.float32, None, seed=0)
    return folder


def output(capsys, *words):
    code = main(words)
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "/absent"], "is no directory"),
        (["explain", "/absent"], "is no directory"),
        (["run", "/absent", "--option", "flashcom=1"], "Did you mean 'flashcomm'"),
        (["run", "/absent", "--option", "flashcomm"], "write flashcomm=VALUE"),
        (["run", "/absent", "--option", "executor=fast"], "valid values: auto"),
        (["show", "swigl"], "Did you mean 'swiglu'"),
        (["check", "absent_rule"], "`ascend-passes list` names all"),
        (["new", "Not-A-Name"], "lower case words"),
        (["new", "swiglu", "--kind", "recognize"], "exists"),
        (["list", "--option", "rule_path=/absent"], "is no folder"),
    ],
)
def test_wrong_use_is_one_line_on_stderr(capsys, words, reason):
    code, text = output(capsys, *words)
    assert code == 2
    assert reason in text.err
    assert text.out == ""
    assert text.err.count("\n") == 1


def test_list_and_show_know_every_rule(capsys):
    code, text = output(capsys, "list", "--json")
    rules = json.loads(text.out)
    assert code == 0
    assert {"rms_norm", "swiglu", "add_rms_norm", "add_rms_norm_quant"} <= {
        r["name"] for r in rules
    }
    assert all(rule["summary"].endswith(".") for rule in rules)
    for rule in rules:
        code, text = output(capsys, "show", rule["name"], "--json")
        shown = json.loads(text.out)
        assert code == 0
        assert shown["graph_before"] != shown["graph_after"]
        assert "npu." in shown["graph_after"]


def test_a_switched_off_rule_is_listed_as_off(capsys):
    _, text = output(capsys, "list", "--json", "--option", "rules=-swiglu")
    on = {rule["name"]: rule["on"] for rule in json.loads(text.out)}
    assert not on["swiglu"]
    assert on["rms_norm"]


def test_a_new_rule_loads_and_is_checked(capsys, tmp_path):
    code, text = output(capsys, "new", "my_rule", "--folder", str(tmp_path))
    assert code == 0
    assert str(tmp_path / "my_rule.py") in text.out
    assert (tmp_path / "my_rule.py").read_text() == TEMPLATE
    code, text = output(capsys, "show", "my_rule", "--json", "--option", f"rule_path={tmp_path}")
    assert code == 0
    assert "npu_swiglu" in json.loads(text.out)["graph_after"]


def test_a_rule_file_that_does_not_parse_is_named(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("def pattern(:\n")
    code, text = output(capsys, "list", "--option", f"rule_path={tmp_path}")
    assert code == 2
    assert "broken.py" in text.err
    assert "SyntaxError" in text.err


def test_run_prints_json_alone_and_the_model_is_right(directory):
    command = [sys.executable, "-m", "ascend_passes", "run", str(directory), "--json"]
    done = subprocess.run([*command, "--tokens", "3"], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["passed"]
    assert result["equal_tokens"] == result["tokens"] == 3
    assert sum(report["fired"].get("rms_norm", 0) for report in result["reports"]) > 0


def test_explain_reports_prefill_and_decode(capsys, directory):
    code, text = output(capsys, "explain", str(directory), "--json")
    reports = json.loads(text.out)
    assert code == 0
    assert set(reports) == {"prefill", "decode"}
    assert all(report["fired"] for report in reports.values())
