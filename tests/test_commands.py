import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from ascend_passes.__main__ import main
from ascend_passes.commands.bench_compile import Row, bars
from ascend_passes.commands.demo import save_model
from ascend_passes.commands.new import TEMPLATE
from ascend_passes.commands.output import progress


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


@pytest.mark.parametrize("command", ["run", "explain"])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mamba"}, "supported dense models: gemma3_text, llama"),
        ({"model_type": "qwen3", "quantization_config": {"quant_method": "awq"}}, "by 'awq'"),
    ],
)
def test_a_model_that_is_not_supported_is_one_line_on_stderr(
    capsys, tmp_path, command, config, reason
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, text = output(capsys, command, str(tmp_path))
    assert code == 2
    assert text.out == ""
    assert reason in text.err.splitlines()[-1]


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
    assert result["passed"] and result["same_formula"]
    lines = done.stderr.splitlines()
    assert "qwen3: eager tokens" in lines and "qwen3: float64 reference" in lines
    assert result["equal_tokens"] == result["tokens"] == 3
    assert sum(report["fired"].get("rms_norm", 0) for report in result["reports"]) > 0


def test_explain_reports_prefill_and_decode(capsys, directory):
    code, text = output(capsys, "explain", str(directory), "--json")
    reports = json.loads(text.out)
    assert code == 0
    assert set(reports) == {"prefill", "decode"}
    assert all(report["fired"] for report in reports.values())


def test_the_demo_says_what_fired_and_how_well_the_models_agree(capsys):
    code, text = output(capsys, "demo", "--model", "qwen3-w8a8-static")
    assert code == 0
    assert "qwen3-w8a8-static" in text.out and "qwen3-float32" not in text.out
    assert re.search(r"add_rms_norm_quant +fired 3", text.out)
    assert "W8A8 in bfloat16: " in text.out and " of 16 greedy tokens equal eager's" in text.out
    assert "(the same formula)" in text.out
    assert text.out.splitlines()[-1] == "passed"


def test_progress_off_a_terminal_is_a_line_for_each_step(capsys):
    with progress("work") as stage:
        for done in range(3):
            stage("first", done, 3)
        stage("second", 0, 1)
    assert capsys.readouterr().err == "work: first\nwork: second\n"


ROW = Row(64, 2193, 0.3, 9.0, 127, 127, 9055, 1.5, 127)
HALF = Row(32, 1105, 0.15, 4.5, 63, 63, 4600, 0.75, 63)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({}, []),
        ({"inductor": 2.9}, ["at least 10 times faster"]),
        ({"pipeline": 4.1}, ["all rules under 4 s", "all rules: 64 layers under 2.3 times"]),
        ({"ours": 0.35}, ["same rules: 64 layers under 2.3 times"]),
        ({"pipeline_fused": 126}, ["equal fusions in all 2 rows"]),
        ({"inductor_fused": 126}, ["equal fusions in all 2 rows"]),
    ],
)
def test_a_bar_that_is_missed_is_named(change, lost):
    judged = [bar for bar in bars([HALF, replace(ROW, **change)]) if not bar.passed]
    assert len(judged) == len(lost)
    for bar, text in zip(judged, lost, strict=True):
        assert bar.text.startswith(text)


def test_bench_compile_judges_what_it_measured(capsys):
    code, text = output(capsys, "bench", "compile", "--layers", "2", "--repeats", "1", "--json")
    result = json.loads(text.out)
    (row,) = result["rows"]
    assert code == 0
    assert row["ours_fused"] == row["inductor_fused"] == row["pipeline_fused"] == 3
    assert min(row["ours"], row["inductor"], row["pipeline"]) > 0
    assert [bar["text"] for bar in result["bars"]] == ["equal fusions in all 1 rows"]
