"""Stored templates say what a trace would say, and are used only where it would say so now."""

from __future__ import annotations

import copy
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ascend_passes
from ascend_passes.cli.rules import every_rule
from ascend_passes.engine import registry, stored, template
from ascend_passes.engine.examples import has_any_rank
from ascend_passes.engine.registry import helper_files
from ascend_passes.engine.rule import Rule
from ascend_passes.engine.template import build
from ascend_passes.engine.template_data import NotDataError, argument_data, from_data, to_data
from ascend_passes.engine.template_value import NoFormError
from ascend_passes.ir import trace
from ascend_passes.ir.traced_sizes import arithmetic
from ascend_passes.options.value import Options

RULES = {rule.name: rule for rule in every_rule(Options())}


def cases():
    """Every stored template: (rule, spelling, dtype, leading or None, data)."""
    for rule in RULES.values():
        for (spelling, case), data in stored.by_case(rule.name).items():
            dtype, leading = case.split()
            found = next(one for one in rule.spellings if one.name == spelling)
            number = None if leading == stored.OUTLINE else int(leading)
            yield rule, found, getattr(torch, dtype), number, data


def fresh(rule, spelling, dtype, leading):
    """The trace of now."""
    inputs = trace.fake_inputs if leading is None else trace.symbolic_inputs
    sizes = int(has_any_rank(spelling)) if leading is None else leading
    return build(rule, spelling, dtype, sizes, "cpu", inputs)


@pytest.fixture
def forgotten():
    """As a process that has matched nothing yet, before the test and after it."""

    def forget():
        for cached in (
            template.outline,
            template.template,
            stored.usable,
            stored.document,
            stored.by_case,
            stored.maker_digests,
        ):
            cached.cache_clear()

    forget()
    yield
    forget()


def test_stored_templates_are_what_a_trace_gives_now():
    every = list(cases())
    for rule, spelling, dtype, leading, data in random.sample(every, 24):
        try:
            found = to_data(fresh(rule, spelling, dtype, leading))
        except NoFormError:
            found = None
        assert found == data, (rule.name, dtype, leading)


def test_every_outline_of_the_package_is_stored():
    outlines = {(rule.name, s.name, dtype) for rule, s, dtype, leading, _ in cases() if not leading}
    for rule in RULES.values():
        for spelling in rule.spellings:
            assert {(rule.name, spelling.name, dtype) for dtype in rule.dtypes} <= outlines


def test_data_becomes_a_template_and_data_again():
    for rule, spelling, dtype, _, data in cases():
        if data is None:
            continue
        assert to_data(from_data(data, rule, spelling, dtype)) == data


def test_all_code_that_makes_a_template_is_in_its_key():
    """A file that runs while a template is traced, and is not named, could change unseen."""
    named = {str(stored.PACKAGE / name) for name in stored.maker_digests()}
    ran = set()

    def watch(frame, event, _):
        ran.add(frame.f_code.co_filename)

    for rule, spelling, dtype, leading, data in cases():
        if data is None or dtype != rule.dtypes[0] or leading not in (None, 0, 2):
            continue
        sys.setprofile(watch)
        try:
            to_data(fresh(rule, spelling, dtype, leading))
        finally:
            sys.setprofile(None)
        sources = {rule.source, *map(str, helper_files(Path(rule.source).parent))}
        ours = {file for file in ran if file.startswith(str(stored.PACKAGE.parent) + "/")}
        ours = {file for file in ours if ".venv" not in file and file != __file__}
        assert ours - sources <= named, rule.name
        ran.clear()


def test_a_model_compiles_without_a_trace_of_any_rule(forgotten, monkeypatch):
    def traced(*_):
        raise AssertionError("a template was traced")

    def norm(x, residual, gain):
        return torch.nn.functional.rms_norm(x + residual, x.shape[-1:], gain, 1e-6)

    monkeypatch.setattr(template, "build", traced)
    inputs = [torch.randn(size, dtype=torch.float16) for size in ((3, 64), (3, 64), (64,))]
    report = ascend_passes.explain(norm, *inputs, options={"strict": True})
    assert report.fired["add_rms_norm"] == 1


CHANGES = {
    "another torch": lambda found: found.update(torch="2.0"),
    "torch_npu is installed": lambda found: found.update(torch_npu="2.13.0"),
    "a file has changed": lambda found: found["makers"].update({"forms.py": "0"}),
    "a file is new": lambda found: found["makers"].pop("npu/norm.py"),
    "a file is gone": lambda found: found["makers"].update({"npu/gone.py": "0"}),
    "the rule has changed": lambda found: found["rules"]["add_rms_norm"].update(digest="0"),
    "the rule is new": lambda found: found["rules"].pop("add_rms_norm"),
    "the spelling is new": lambda found: found["rules"]["add_rms_norm"]["spellings"].clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_may_be_out_of_date_is_traced(change, forgotten, monkeypatch):
    rule = RULES["add_rms_norm"]
    wanted = rule, rule.spellings[0], torch.bfloat16
    assert stored.find_stored(*wanted, None, "cpu") is not None
    found = copy.deepcopy(stored.document())
    change(found)
    stored.usable.cache_clear()
    stored.by_case.cache_clear()
    monkeypatch.setattr(stored, "document", lambda: found)
    assert stored.find_stored(*wanted, None, "cpu") is None
    assert to_data(template.outline(*wanted, "cpu")) == to_data(fresh(*wanted, None))


def test_another_kind_of_device_is_traced():
    rule = RULES["add_rms_norm"]
    assert stored.find_stored(rule, rule.spellings[0], torch.bfloat16, None, "cuda") is None


def test_a_rule_made_from_a_stored_one_is_traced():
    rule = RULES["add_rms_norm"]
    other = replace(rule, tolerance=3)
    assert stored.find_stored(other, other.spellings[0], torch.bfloat16, None, "cpu") is None


@pytest.mark.parametrize("changed", ["add_rms_norm.py", "_quantized.py"])
def test_a_rule_that_changes_on_disk_is_another_one(tmp_path, changed):
    source = Path(RULES["add_rms_norm"].source)
    for file in (source, *helper_files(source.parent)):
        shutil.copy(file, tmp_path)

    def found():
        rule = registry.load(tmp_path / source.name)
        assert isinstance(rule, Rule) and rule.name == "add_rms_norm"
        return stored.find_stored(rule, rule.spellings[0], torch.bfloat16, None, "cpu")

    assert found() is not None
    text = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text(text.replace("x + residual", "x - residual") + "\n")
    assert found() is None


def test_only_arithmetic_is_read_from_a_file():
    a, b = random.randint(2, 99), random.randint(2, 99)
    assert arithmetic("2*((s1//3)) + s0*s1 - 4")(a, b) == 2 * (b // 3) + a * b - 4
    for text in ("__import__('os')", "s0.bit_length()", "[s0]", "s0**2", "s0/2", "s0 if s1 else 1"):
        assert arithmetic(text) is None
    with pytest.raises(NotDataError):
        argument_data(object())
