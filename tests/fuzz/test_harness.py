"""The search finds what is wrong, makes it small and prints it as a file that runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ascend_passes.backend import ascend_dense
from tests.fuzz.__main__ import seeds
from tests.fuzz.check import RIGHT, WRONG, Verdict, check, compiled_by
from tests.fuzz.compare import values
from tests.fuzz.float64 import formula_differences, traced
from tests.fuzz.generate import generate
from tests.fuzz.minimize import minimize
from tests.fuzz.printing import printed
from tests.fuzz.program import Call, Given, Program, Step
from tests.fuzz.vocabulary import layers, npu
from tests.fuzz.workers import Tally
from tests.fuzz.worlds import eager, run

ROOT = Path(__file__).parents[2]
WRONG_RULE = '''
"""SiLU of the first row times the second becomes SiLU of the second times the first: wrong."""
from typing import Annotated
import torch
from torch import Tensor
from ascend_passes import Rule, npu
Half = Annotated[Tensor, "... I"]


def pattern(gate: Half, up: Half):
    return torch.nn.functional.silu(gate) * up


def replacement(gate: Tensor, up: Tensor):
    return npu.npu_swiglu(torch.cat([up, gate], -1), -1)


rule = Rule(pattern, replacement, examples=[{"I": 64}])
'''
SIZES = (("B", 2), ("S", 3), ("T", 6))
PROGRAM = Program(
    (
        Given("x0", "input", ("B", "S", 16), "normal"),
        Given("x1", "input", ("B", "S", 16), "normal"),
        Given("p2", "parameter", (16,), "gain"),
    ),
    (
        Step("residual", "{r0} = {0} + {1}", ("x0", "x1"), ("v1",)),
        Step("rms_norm", "{r0} = F.rms_norm({0}, (16,), {1}, 1e-6)", ("v1", "self.p2"), ("v2",)),
        Step("gate", "{r0} = F.silu({0}) * {1}", ("v2", "x1"), ("v3",)),
        Step("scalar", "{r0} = {0} * 0.5", ("v3",), ("v4",)),
        Step("view", "{r0} = {0}.transpose(0, 1)", ("v1",), ("v5",)),
    ),
    ("v4", "v5", "v1"),
    (Call(1, SIZES), Call(2, SIZES)),
    seed=7,
)


@pytest.fixture
def wrong(tmp_path):
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "wrong_gate.py").write_text(WRONG_RULE)
    options = (("rule_path", str(folder)), ("rules", "-swiglu_unpacked"))
    return dataclasses.replace(PROGRAM, options=options)


def test_a_right_program_is_right():
    assert check(PROGRAM).kind == RIGHT


def test_a_wrong_rule_is_found_made_small_and_printed(wrong, tmp_path):
    verdict = check(wrong, formulas=False)
    assert verdict.kind == WRONG and ("result", "value") in verdict.keys
    small = minimize(wrong, verdict, 120)
    assert [step.operator for step in small.steps] == ["gate"]
    assert len(small.calls) == 1 and len(small.results) == 1
    file = tmp_path / "found.py"
    file.write_text(printed(small))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, file], capture_output=True, text=True, env=environment)
    assert told.returncode == 0, told.stderr
    gap = float(told.stdout.split("result 0: ")[1].split()[0])
    assert gap > 0.01


@pytest.mark.parametrize(("which", "differs"), [("wrong", True), ("right", False)])
def test_a_wrong_formula_is_found_in_float64(which, differs, wrong):
    program = wrong if which == "wrong" else PROGRAM
    with traced() as graphs:
        run(program, eager(program, compiled_by(program, ascend_dense, dict(program.options))))
    assert len(graphs) == 1
    assert bool(formula_differences(program, graphs)) is differs


@pytest.mark.parametrize("seed", range(30))
def test_a_seed_makes_one_program_that_runs(seed):
    assert generate(seed) == generate(seed)
    assert generate(seed).steps


@pytest.mark.parametrize(
    ("operator", "options", "name"),
    [
        (layers.second_half, (("prefetch_mlp", True),), "prefetch"),
        (layers.layers_of_tables, (), "share_tables"),
        (npu.add_norm_quantize, (), "add_rms_norm_quant"),
        (npu.add_norm_quantize, (), "add_rms_norm_quant[reciprocal]"),
    ],
)
def test_the_vocabulary_reaches_what_acts_on_whole_layers(operator, options, name, monkeypatch):
    monkeypatch.setattr("tests.fuzz.generate.VOCABULARY", {operator: 1.0})
    for seed in range(20):
        program = dataclasses.replace(generate(seed), options=options)
        if check(program, formulas=False).fired.get(name):
            return
    pytest.fail(f"{name} fired in none of 20 programs")


def test_runs_add_up_in_a_log(tmp_path):
    log = tmp_path / "log.jsonl"
    first = Tally.of(log)
    first.add(3, Verdict(RIGHT, fired={"swiglu": 2}), ["gate", "residual"])
    first.add(4, Verdict(WRONG, ("off",), frozenset({("result", "value")})), ["gate"])
    assert Tally.of(log) == first
    assert list(seeds(3, 4, 0, Tally.of(log).seeds)) == [5, 6]


def test_rounding_is_allowed_and_more_is_not():
    exact = torch.randn(8, 16, dtype=torch.float64)
    rounded, moved = exact.bfloat16(), exact * (1 + 2**-8)
    other = (exact * (1 + 2**-9)).bfloat16()
    assert values(rounded, other, exact, [moved], torch.bfloat16) == ""
    assert values(rounded, (exact * 1.5).bfloat16(), exact, [moved], torch.bfloat16)
    missing = rounded.clone()
    missing[0, 0] = torch.nan
    assert values(rounded, missing, exact, [moved], torch.bfloat16)
