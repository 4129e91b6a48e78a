import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import ascend_passes
from ascend_passes import explain
from ascend_passes.cli.new import TEMPLATE
from ascend_passes.compile import pass_names
from ascend_passes.compile.option_values import checked_options
from ascend_passes.engine.registry import rules
from ascend_passes.engine.rule import RuleError
from ascend_passes.options.value import OptionError, Options, switched_on
from ascend_passes.passes.matmul_collective.matmul_collective import STEPS


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for field in dataclasses.fields(Options):
        monkeypatch.delenv(field.metadata["environment"], raising=False)


def test_every_option_says_what_it_is():
    for field in dataclasses.fields(Options):
        assert field.metadata["environment"].isupper()
        assert field.metadata["sentence"].endswith((".", ")."))


def test_environment_variables_are_unique():
    names = [field.metadata["environment"] for field in dataclasses.fields(Options)]
    assert len(set(names)) == len(names)


def test_an_unknown_option_names_the_nearest_and_all():
    with pytest.raises(OptionError, match="Did you mean 'flashcomm'") as caught:
        checked_options({"flashcom": True})
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Options))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"flashcomm": "yes"}, "must be a bool"),
        ({"flashcomm": 1}, "must be a bool"),
        ({"capture_limit": True}, "must be a int"),
        ({"capture_limit": -1}, "at least 0"),
        ({"flashcomm_tokens": -2}, "at least -1"),
        ({"executor": "fast"}, "valid values: auto, eager"),
        ({"expect": 3}, "dict of rule name to count"),
        ({"expect": {"swiglu": -1}}, "at least 0"),
        ({"expect": {"swiglu": True}}, "must have a count, not True"),
        ({"expect": {"swiglo": 1}}, "Did you mean 'swiglu'"),
        ({"expect": {"fuse": 1}}, "no rule and no pass"),
        ({"expect": {"gated": 1}}, "It is the family of swiglu, swiglu_unpacked, geglu"),
        ({"rules": "-gated"}, "name one of these"),
        ({"rules": "-swiglo"}, "Did you mean 'swiglu'"),
        ({"rules": "swiglu"}, "must start with"),
        ({"passes": "-fold_constnts"}, "Did you mean 'fold_constants'"),
        ({"passes": "-sequence_parallel.csot"}, "Did you mean 'sequence_parallel.cost'"),
        ({"profile": "nope"}, "neither one of atlas-800-a2"),
        ({"soc": "foo"}, "known chips begin with Ascend910B"),
        ({"capture_sizes": "abc"}, "write positive whole numbers"),
        ({"capture_sizes": "²"}, "write positive whole numbers"),
        ({"capture_sizes": "1024"}, "all above the capture limit"),
        ({"capture_limit": 10**12}, "at most 65536"),
        ({"prefetch_tokens": 10**5000}, "at most"),
        ({"dump": __file__}, "is no folder"),
        ("flashcomm", "must be a dict"),
    ],
)
def test_a_wrong_value_says_what_is_right(given, reason):
    with pytest.raises(OptionError, match=reason):
        checked_options(given)


def test_the_environment_is_read_and_arguments_win(monkeypatch):
    monkeypatch.setenv("VLLM_ASCEND_ENABLE_FLASHCOMM1", "1")
    monkeypatch.setenv("ASCEND_PASSES_EXPECT", "swiglu=2, rms_norm=5")
    assert checked_options().flashcomm
    assert dict(checked_options().expect) == {"swiglu": 2, "rms_norm": 5}
    assert not checked_options({"flashcomm": False}).flashcomm


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("VLLM_ASCEND_ENABLE_FLASHCOMM1", "maybe", "write 1 or 0"),
        ("ASCEND_PASSES_CAPTURE_LIMIT", "many", "write a whole number"),
        ("ASCEND_PASSES_EXPECT", "swiglu", "name=count pairs"),
        ("ASCEND_PASSES_EXECUTOR", "fast", "valid values"),
    ],
)
def test_a_wrong_environment_names_the_variable(monkeypatch, variable, text, reason):
    monkeypatch.setenv(variable, text)
    with pytest.raises(OptionError, match=f"{variable}.*{reason}"):
        checked_options()


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ASCEND_PASSES_RULLES", "Did you mean 'ASCEND_PASSES_RULES'?"),
        ("ASCEND_PASSES_QQQQQQQQQQQQQQQQQQQQQQ", "docs/options.md names all"),
    ],
)
def test_a_variable_of_ours_that_no_option_reads_is_said(monkeypatch, variable, hint):
    monkeypatch.setenv(variable, "1")
    with pytest.warns(RuntimeWarning, match=f"reads the environment variable {variable}.*{hint}"):
        checked_options()


@pytest.mark.filterwarnings("error")
def test_variables_that_are_read_are_not_said(monkeypatch):
    for name in ("ASCEND_PASSES_RULES", "ASCEND_PASSES_TEST_SEED", "OTHER_ASCEND_PASSES_X"):
        monkeypatch.setenv(name, "")
    assert checked_options() == Options()


@pytest.mark.parametrize("dump", ["/proc/none", "a\0b"])
def test_a_dump_where_no_folder_can_be_is_an_error(dump):
    with pytest.raises(OptionError, match=r"a folder that cannot be made: .* can be written"):
        checked_options({"dump": dump})


def test_a_dump_into_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for dump in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OptionError, match="which is no folder; name a folder"):
            checked_options({"dump": str(dump)})


@pytest.mark.parametrize("soc", ["Ascend910B", "Ascend910B1", "Ascend910_9391", "Ascend950PR"])
def test_every_chip_of_the_tables_is_known(soc):
    assert checked_options({"soc": soc}).soc == soc


def test_options_made_by_hand_are_checked_as_well():
    with pytest.raises(OptionError, match="Did you mean 'swiglu'"):
        checked_options(Options(rules="-swiglo"))


def test_a_folder_without_rules_is_an_error_and_its_rules_are_known(tmp_path):
    with pytest.raises(RuleError, match="no rule files"):
        checked_options({"rule_path": str(tmp_path)})
    (tmp_path / "mine.py").write_text(TEMPLATE)
    given = {"rule_path": str(tmp_path), "rules": "-mine", "expect": {"mine": 0}}
    assert checked_options(given).rules == "-mine"


def test_a_rule_that_is_off_by_default_can_be_named(tmp_path):
    (tmp_path / "mine.py").write_text(TEMPLATE.replace("examples=", "default=False, examples="))
    on = [rule.name for rule in rules(Options(rule_path=str(tmp_path)))]
    assert "add_rms_norm" in on and "mine" not in on
    assert checked_options({"rule_path": str(tmp_path), "rules": "+mine", "expect": {"mine": 1}})


@pytest.mark.parametrize("name", pass_names.switchable())
def test_every_pass_can_be_switched_and_the_other_names_not(name):
    assert checked_options({"passes": f"-{name}"})
    with pytest.raises(OptionError, match=f"switches '{name}x'"):
        checked_options({"passes": f"-{name}x"})


def test_the_names_of_parts_are_those_that_the_passes_ask_for():
    own = Path(ascend_passes.__file__).parent.rglob("*.py")
    source = "".join(path.read_text() for path in own if path.stem != "pass_names")
    identities = {
        *re.findall(r'"(sink_[a-z]+)"', source),
        *re.findall(r'on\(context, "(\w+)"', source),
    }
    assert set(pass_names.PARTS["sequence_parallel"]) == identities
    assert set(pass_names.PARTS["matmul_collective"]) == set(STEPS)


def test_what_a_report_counts_can_be_expected():
    model = lambda x, w: functional.rms_norm(x + x, (64,), w, 1e-6)  # noqa: E731
    report = explain(model, torch.randn(4, 64), torch.ones(64))
    assert report.fired
    assert checked_options({"expect": dict(report.fired)})


def test_the_last_switch_that_fits_wins():
    assert switched_on("swiglu", "")
    assert not switched_on("swiglu", "-swiglu")
    assert switched_on("swiglu", "-*,+swiglu")
    assert not switched_on("rms_norm", "-*, +swiglu")
    with pytest.raises(OptionError, match="must start with"):
        switched_on("swiglu", "swiglu")
