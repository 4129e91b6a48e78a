import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from ascend_passes.__main__ import STATUSES, main
from ascend_passes.cli import environment as doctor
from ascend_passes.cli import limit
from ascend_passes.cli.bench_cold import Cold
from ascend_passes.cli.bench_compile import Row, bars
from ascend_passes.cli.check import chosen_names
from ascend_passes.cli.demo import save_model
from ascend_passes.cli.list import row_of
from ascend_passes.cli.new import TEMPLATE
from ascend_passes.cli.output import progress
from ascend_passes.cli.rules import every_named
from ascend_passes.engine import registry
from ascend_passes.engine.rule import RuleError
from ascend_passes.options.value import Options


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    save_model(folder, torch.float32, None, seed=0)
    return folder


TEXT = {"capture_output": True, "text": True, "check": False}


def assert_one_error(text, reason):
    """The last line on stderr, behind progress, is the only thing that is said."""
    *before, last = text.err.splitlines()
    assert text.out == ""
    assert last.startswith("error: ")
    assert reason in last
    assert all(line.endswith(": load") for line in before)


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
        (["new", "swiglu"], "is a recognition already"),
        (["new", "add_rms_norm"], "exists"),
        (["new", "mine", "--kind", "recognize"], "with --folder"),
        (["list", "--option", "rule_path=/absent"], "is no folder"),
    ],
)
def test_wrong_use_is_one_line_on_stderr(capsys, words, reason):
    code, text = output(capsys, *words)
    assert code == 2
    assert_one_error(text, reason)


@pytest.mark.parametrize("command", ["run", "explain"])
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mamba"}, "supported models: gemma3_text, llama"),
        ({"model_type": "qwen3", "quantization_config": {"quant_method": "awq"}}, "by 'awq'"),
    ],
)
def test_a_model_that_is_not_supported_is_one_line_on_stderr(
    capsys, tmp_path, command, config, reason
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, text = output(capsys, command, str(tmp_path))
    assert code == 2
    assert_one_error(text, reason)


OF_ATEN = ("add", "muls_add")
"""Rules whose replacement is one of torch's own operators."""


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
        assert "npu." in shown["graph_after"] or rule["name"] in OF_ATEN


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


def test_a_new_rule_that_recognizes_says_so_and_passes(capsys, tmp_path):
    words = ["new", "my_rule", "--kind", "recognize", "--folder", str(tmp_path)]
    assert output(capsys, *words)[0] == 0
    code, text = output(capsys, "check", str(tmp_path))
    assert (code, text.out) == (0, "my_rule: passed\n")
    _, text = output(capsys, "list", "--json", "--option", f"rule_path={tmp_path}")
    kinds = {row["name"]: row["kind"] for row in json.loads(text.out)}
    assert kinds["my_rule"] == "recognize"


def test_a_rule_file_that_does_not_parse_is_named(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("def pattern(:\n")
    code, text = output(capsys, "list", "--option", f"rule_path={tmp_path}")
    assert code == 2
    assert "broken.py" in text.err
    assert "SyntaxError" in text.err


def test_no_name_of_a_rule_runs_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("swiglu")):
        folder.mkdir(exist_ok=True)
        (folder / "x.py").write_text("open('RAN', 'w')")
    assert [one.name for one in chosen_names("swiglu", Options())] == ["swiglu"]
    for name in ("", ".", "x", "x.py"):
        with pytest.raises(ValueError):
            chosen_names(name, Options())
    assert not Path("RAN").exists()
    with pytest.raises(RuleError, match="must end in"):
        chosen_names("./swiglu", Options())
    assert Path("RAN").exists()


@pytest.mark.parametrize("folder", ["mine", "my own/rules"])
def test_the_next_command_of_new_works(capsys, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    _, text = output(capsys, "new", "my_rule", "--folder", folder)
    (command,) = re.findall("`(.*)`", text.out)
    program, *words = shlex.split(command)
    assert program == "ascend-passes" and words[0] == "check"
    code, text = output(capsys, *words)
    assert code == 0
    assert text.out == "my_rule: passed\n"


def test_list_in_a_pipe_cuts_nothing(capsys):
    _, text = output(capsys, "list")
    _, *lines = text.out.splitlines()
    rows = [row_of(one, Options()) for one in every_named(Options())]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.split()[0] == row["name"]
        assert " ".join(line.split()).endswith(row["summary"])


def test_brackets_in_a_file_are_no_markup(capsys, tmp_path):
    folder = tmp_path / "[bold]"
    folder.mkdir()
    (folder / "mine.py").write_text(TEMPLATE.replace("Say in one", "[/red] Say in one"))
    code, text = output(capsys, "list", "--option", f"rule_path={folder}")
    assert code == 0
    assert "[bold]" in text.out and "[/red] Say in one" in text.out


def test_what_nobody_foresaw_is_one_line_and_debug_shows_where(capsys, monkeypatch):
    def fail(arguments):
        raise KeyError("a\nb\x1b[31m")

    monkeypatch.setattr("ascend_passes.cli.list.run", fail)
    code, text = output(capsys, "list")
    assert code == 3
    assert_one_error(text, "unexpected KeyError: ")
    assert "\x1b" not in text.err
    for words in (("list", "--debug"), ("--debug", "list")):
        code, text = output(capsys, *words)
        assert code == 3
        assert "Traceback" in text.err and "in fail" in text.err


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ascend_passes.cli.list.run", interrupt)
    code, text = output(capsys, "list")
    assert code == 130
    assert_one_error(text, "interrupted")


def test_a_reader_that_is_gone_is_no_traceback(tmp_path):
    program = "import sys; from ascend_passes.__main__ import main; sys.exit(main(['list']))"
    code = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} 2>errors | true; "
    done = subprocess.run(["bash", "-c", code + "echo ${PIPESTATUS[0]}"], cwd=tmp_path, **TEXT)
    assert done.stdout == "141\n"
    assert "Traceback" not in (tmp_path / "errors").read_text()


def test_a_count_that_is_missed_is_a_negative_answer(capsys, directory):
    code, text = output(capsys, "explain", str(directory), "--option", "expect=rms_norm=999")
    assert code == 1
    assert "rms_norm fired" in text.err and "expected 999" in text.err


def test_the_help_and_the_page_say_what_a_status_means(capsys):
    page = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for status, meaning in STATUSES.items():
        assert f"{status}: {meaning}" in text
        assert f"| {status} | {meaning} |" in page


SPIN = "while True:\n    pass"
SWALLOW = """import sys
from ascend_passes.cli.limit import limited
with limited(0.2, "it"):
    while True:
        try:
            while True:
                pass
        except BaseException:
            sys.stderr.write("caught, ")
"""


def test_code_that_does_not_end_is_interrupted():
    with pytest.raises(RuleError, match="it did not end within"), limit.limited(0.1, "it"):
        try:
            exec(SPIN)
        except Exception:
            raise AssertionError("an interruption is no Exception") from None


def test_code_that_catches_the_interruption_ends_the_process():
    done = subprocess.run([sys.executable, "-c", SWALLOW], timeout=120, **TEXT)
    assert done.returncode == 2
    assert done.stderr.startswith("caught, error: it did not end within 0.2 s")


def test_a_checkout_has_its_own_rules(tmp_path):
    """Whatever is installed: its registry looks beside itself."""
    package = tmp_path / "ascend_passes"
    (package / "engine").mkdir(parents=True)
    copy = shutil.copy(registry.__file__, package / "engine" / "registry.py")
    spec = importlib.util.spec_from_file_location("other_registry", copy)
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    assert other.pattern_folders() == (tmp_path / "patterns" / "fuse",)
    (package / "patterns").mkdir()
    assert other.pattern_folders() == (package / "patterns" / "fuse",)


def test_a_strange_toolkit_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    (tmp_path / "arm64" / "ascend_toolkit_install.info").mkdir(parents=True)
    (tmp_path / "arm64" / "lib64").mkdir()
    (tmp_path / "arm64" / "lib64" / "libhccl.so").write_bytes(b"")
    (tmp_path / "arm64" / "hccl").mkdir()
    (tmp_path / "arm64" / "hccl" / "version.info").write_bytes(b"\xff\xfe Version=")
    assert doctor.cann_version() == doctor.hccl_version() == "unknown"
    (tmp_path / "arm64" / "hccl" / "version.info").write_text("Version=8.2\n")
    assert doctor.hccl_version() == "8.2"


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


def test_explain_lists_kernels_and_a_layer_and_what_is_gone(capsys, directory):
    code, text = output(capsys, "explain", str(directory), "--kernels")
    assert code == 0
    assert re.search(
        r"^  npu::npu_add_rms_norm .* by add_rms_norm for 2 add, pow, ", text.out, re.M
    )
    code, text = output(capsys, "explain", str(directory), "--layer", "1")
    assert code == 0
    assert "model.layers.1: " in text.out and "model.layers.0" not in text.out
    assert "modeling_qwen3.py:" in text.out
    code, text = output(capsys, "explain", str(directory), "--diff")
    assert code == 0
    signs = [line[0] for line in text.out.splitlines() if line[1:2] == " "]
    assert signs.count("+") < signs.count("-") and " " in signs
    code, text = output(capsys, "explain", str(directory), "--layer", "2")
    assert code == 2
    assert "--layer 2: the model's layers are 0 to 1" in text.err


def test_explain_writes_a_page_and_what_to_expect(capsys, directory, tmp_path):
    page, expect = tmp_path / "page.html", tmp_path / "expect"
    words = ("explain", str(directory))
    code, text = output(capsys, *words, "--html", str(page), "--write-expect", str(expect))
    assert code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert f"wrote {page}; open it in a browser" in text.out
    held = expect.read_text().strip()
    assert "rms_norm=9" in held and "grouped_attention" not in held  # decode steps alone have it
    code, _ = output(capsys, *words, "--option", f"expect={held}")
    assert code == 0
    more = held.replace("rms_norm=9", "rms_norm=10")
    code, text = output(capsys, *words, "--option", f"expect={more}")
    assert code == 1 and "rms_norm fired 9 times, expected 10" in text.err
    code, text = output(capsys, *words, "--html", str(tmp_path))
    assert code == 2 and "is no file; name a file to write" in text.err


def test_compare_says_what_is_lost(capsys, directory, tmp_path):
    for name, words in {"all": (), "less": ("--option", "rules=-add_rms_norm")}.items():
        code, text = output(capsys, "explain", str(directory), "--json", *words)
        assert code == 0
        (tmp_path / name).write_text(text.out)
    whole, less = (str(tmp_path / name) for name in ("all", "less"))
    assert output(capsys, "compare", whole, whole)[0] == 0
    code, text = output(capsys, "compare", whole, less)
    assert code == 1
    assert re.search(r"lost +prefill: add_rms_norm fired 0 times.*, it was 4", text.out)
    assert re.search(r"lost +decode: estimated: [\d.]+ -> [\d.]+ ms \(\+", text.out)
    code, text = output(capsys, "compare", less, whole, "--json")
    result = json.loads(text.out)
    assert code == 0 and result["lost"] == 0
    assert {one["kind"] for one in result["changes"]} == {"gained"}
    code, text = output(capsys, "compare", whole, str(tmp_path / "absent"))
    assert code == 2 and "is no file with reports" in text.err


def test_the_demo_says_what_fired_and_how_well_the_models_agree(capsys):
    code, text = output(capsys, "demo", "--model", "qwen3-w8a8-static")
    assert code == 0
    assert "qwen3-w8a8-static" in text.out and "qwen3-float32" not in text.out
    *lines, last = text.out.splitlines()
    assert len(lines) < 10 and "`demo --full`" in last and "`demo --json`" in last
    assert [line[:10].rstrip() for line in lines[1:4]] == ["graph 1", "graph 2", "fused"]
    assert re.search(r"\d+ -> \d+ \(-\d\d %\), estimated .* ms on atlas-800-a2; fused", lines[1])
    assert "add_rms_norm_quant 3" in text.out
    assert re.search(r"^passed .* of 16 tokens equal eager's; logits within", text.out, re.M)


def test_the_full_demo_has_every_layer_and_the_agreement_in_words(capsys):
    code, text = output(capsys, "demo", "--full", "--model", "qwen3-w8a8-static")
    assert code == 0
    assert re.search(r"layers? [01-]+: \d+ -> \d+.*npu_quant_matmul", text.out)
    assert "add_rms_norm_quant 3 of 3" in text.out
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
COLD = Cold(2.4, 2.0, 1.9, 1.8, 1.6, 1.5)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({}, []),
        ({"inductor": 2.9}, ["at least 10 times faster"]),
        ({"pipeline": 4.1}, ["all rules under 4 s", "all rules: 64 layers under 2.3 times"]),
        ({"ours": 0.35}, ["same rules: 64 layers under 2.3 times"]),
        ({"pipeline_fused": 126}, ["equal fusions in all 2 rows"]),
        ({"inductor_fused": 126}, ["equal fusions in all 2 rows"]),
        ({"cold": replace(COLD, ours=2.6)}, ["first compilation of a process within 0.5 s"]),
        ({"cold": replace(COLD, ours_import=1.9)}, ["import within 0.3 s"]),
    ],
)
def test_a_bar_that_is_missed_is_named(change, lost):
    cold = change.pop("cold", COLD)
    judged = [bar for bar in bars([HALF, replace(ROW, **change)], cold) if not bar.passed]
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
    cold = result["cold"]
    assert min(seconds for name, seconds in cold.items() if "over" not in name) > 0
    assert cold["over"] == cold["ours"] - cold["aot_eager"]
    assert [bar["text"] for bar in result["bars"]] == ["equal fusions in all 1 rows"]
