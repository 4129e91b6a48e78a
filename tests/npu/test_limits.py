"""Every documented limit is broken once, alone, and must answer with exactly its sentence."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil

import pytest
import torch
import torch.distributed as dist

import ascend_passes.npu
from ascend_passes import npu
from ascend_passes.ir import trace
from ascend_passes.npu.matmul_all_reduce_norm import OPERATOR
from ascend_passes.npu.operator import require, require_shape
from tests.npu.draw import generator
from tests.npu.limit_cases import A2, A5, BF16, BROKEN, F16, F32, F64, GROUP, I32, LEGAL, t

OUTSIDE = {OPERATOR.name: OPERATOR}
"""Operators that another library has to define before they are registered."""
CHECKED: set[tuple[str, int]] = set()
"""(function, line) of every condition that some test here saw fail."""


def failures(name, arguments, soc=A2):
    """The reasons of the conditions that fail; notes which conditions they are."""
    outside = OUTSIDE.get(name)
    found = outside.limits(arguments, soc) if outside else npu.legality(name, arguments, soc)
    reasons = []
    for holds, reason in found:
        if holds:
            continue
        reasons.append(reason)
        innermost = found
        while innermost.gi_yieldfrom is not None:
            innermost = innermost.gi_yieldfrom
        CHECKED.add((innermost.gi_code.co_name, innermost.gi_frame.f_lineno))
    return reasons


def legal(name):
    """The arguments of a legal call: declared by the operator, or given here."""
    example = None if name in OUTSIDE else npu.OPERATORS[name].example
    return LEGAL[name] if example is None else example(generator(0), 4, 4, BF16)


def changed(argument):
    """Other arguments than a legal one: dtypes, dims and sizes of a tensor, numbers, words."""
    if isinstance(argument, torch.Tensor):
        yield from (argument.to(dtype) for dtype in (F64, I32, BF16, F16))
        yield from (argument[0], argument[(None,) * 8], argument[..., 1:], argument[1:])
        yield argument.new_empty(())
    elif isinstance(argument, bool):
        yield not argument
    elif isinstance(argument, int):
        yield from (argument + 1, argument - 1, -99, 99)
    elif isinstance(argument, float):
        yield from (argument + 1, 0.0)
    elif isinstance(argument, str):
        yield "another"


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    """A group of one process under the name that the collectives are given."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    name = dist.group.WORLD.group_name
    for arguments in (*LEGAL.values(), *(case[1] for case in BROKEN)):
        if arguments.get("hcom") == GROUP:
            arguments["hcom"] = name
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", (*npu.OPERATORS, *OUTSIDE))
def test_legal_calls_are_legal(name):
    assert failures(name, legal(name)) == []


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case[0]}: {case[2][0]}")
def test_each_limit_says_exactly_its_reason(case):
    name, changes, reasons, soc = (*case, A2)[:4]
    assert failures(name, LEGAL[name] | changes, soc) == reasons


def conditions():
    """(function, first line, last line) of every `yield` in the operators' limits."""
    for module in pkgutil.iter_modules(ascend_passes.npu.__path__):
        source = importlib.import_module(f"ascend_passes.npu.{module.name}")
        for function in ast.walk(ast.parse(inspect.getsource(source))):
            if isinstance(function, ast.FunctionDef) and function.name.endswith("_limits"):
                for node in ast.walk(function):
                    if isinstance(node, ast.Yield):
                        yield module.name, function.name, node.lineno, node.end_lineno


def test_no_limit_was_left_untested():
    """Runs after the tests above, whose failing conditions it counts."""
    for name, changes, _, soc in ((*case, A2)[:4] for case in BROKEN):
        failures(name, LEGAL[name] | changes, soc)
    for name in (name for name, operator in npu.OPERATORS.items() if operator.example):
        given = legal(name)
        failures(name, given, A5)
        for key, argument in npu.complete(name, given).items():
            for other in changed(argument):
                failures(name, given | {key: other})
    seen = sorted(
        f"{module}.py:{first} in {function}"
        for module, function, first, last in conditions()
        if not any(where == function and first <= line <= last for where, line in CHECKED)
    )
    assert seen == []


@pytest.mark.parametrize(
    "changes",
    [
        {"scales1": t(8, dtype=F32), "zero_points1": t(8, dtype=I32)},
        {"zero_points1": None},
    ],
)
def test_950_takes_float32_scales_of_bfloat16_too(changes):
    arguments = LEGAL["npu_add_rms_norm_quant"] | changes
    assert failures("npu_add_rms_norm_quant", arguments, A5) == []


def test_float16_takes_float32_scales_and_int32_zero_points():
    arguments = {
        n: t(*s, dtype=F16) for n, s in {"x1": (4, 8), "x2": (4, 8), "gamma": (8,)}.items()
    }
    arguments |= {"scales1": t(8, dtype=F32), "zero_points1": t(8, dtype=I32)}
    assert failures("npu_add_rms_norm_quant", arguments) == []
    wrong = arguments | {"scales1": t(8, dtype=F16)}
    assert failures("npu_add_rms_norm_quant", wrong) == ["scales1 is float16 but must be float32"]


def test_what_cannot_be_proved_does_not_hold():
    rows, pair = trace.symbolic_inputs([(7, 512), (14, 512)], [BF16, BF16], "cpu")
    arguments = LEGAL["npu_mm_reduce_scatter_base"]
    right = rows.new_empty(rows.shape[1], 32)
    reasons = failures("npu_mm_reduce_scatter_base", arguments | {"input": rows, "x2": right})
    assert any(reason.startswith("M = ") and "cannot be proved" in reason for reason in reasons)
    doubled = rows.new_empty(2 * rows.shape[0], rows.shape[1])
    reasons = failures("npu_mm_reduce_scatter_base", arguments | {"input": doubled, "x2": right})
    assert not any(reason.startswith("M = ") for reason in reasons)
    assert require_shape("x", rows, tuple(rows.shape), "its own")[0]
    assert not require_shape("x", rows, tuple(pair.shape), "another")[0]
    assert not rows.fake_mode.shape_env.guards


def test_a_plain_condition_keeps_its_sentence():
    assert require(False, "no") == (False, "no")
