"""An operator of another package, with a rule for it, is treated as one of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OPERATORS = '''
"""Two operators that nobody but this module knows of."""

import torch

from ascend_passes import npu
from ascend_passes.npu.operator import Operator, require_dtype
from ascend_passes.ir.traits import Matmul


def gated(x):
    """`relu(first half) ** 2 * second half`."""
    gate, up = x.float().chunk(2, -1)
    return (gate.relu().square() * up).to(x.dtype)


def fake_gated(x):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def gated_limits(arguments, soc):
    yield require_dtype("x", arguments["x"], (torch.float16, torch.bfloat16))


def product(rows, weight):
    """`rows @ weight`."""
    return rows @ weight


def product_limits(arguments, soc):
    yield True, "nothing is refused"


def example(source, rows, width, dtype):
    return {"x": torch.randn(rows, 2 * width, generator=source).to(dtype)}


npu.register_operators(
    Operator(
        "gated",
        "gated(Tensor x) -> Tensor",
        fake_gated,
        gated,
        gated_limits,
        "this file",
        namespace="mine",
        rows=("x",),
        activation=True,
        accuracy="as exact as float32",
        example=example,
    ),
    Operator(
        "product",
        "product(Tensor rows, Tensor weight) -> Tensor",
        product,
        product,
        product_limits,
        "this file",
        namespace="mine",
        matmul=Matmul("rows", "weight"),
        accuracy="as exact as a matmul",
    ),
)
'''
RULE = '''
"""A squared ReLU of one half times the other half becomes `mine::gated`."""

from typing import Annotated

import my_operators
import torch
from torch import Tensor

from ascend_passes import Rule, npu

Packed = Annotated[Tensor, "... 2*I"]


def pattern(x: Packed):
    gate, up = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.relu(gate).square() * up


def replacement(x: Tensor):
    return npu.gated(x)


rule = Rule(pattern, replacement, examples=[{"I": 64}], dtypes=(torch.bfloat16,), tolerance=2)
'''
SCRIPT = """
import sys
from pathlib import Path

import torch
import my_operators

from ascend_passes import npu
from ascend_passes.cost import profiles
from ascend_passes.__main__ import main
from ascend_passes.cost.model import estimate
from ascend_passes.ir.graph import Context, operator_name, value
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.options.value import Options
from ascend_passes.passes.prefetch import mlps
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from ascend_passes.compile.stages import recognize
from ascend_passes.options.plans import Plan
import tests
from tests.graphs import traced

sys.path.append(str(Path(tests.__file__).parents[1] / "docs"))
import make

folder = sys.argv[1]
options = Options(rule_path=folder, flashcomm=True, passes="-sequence_parallel.cost")
plan = Plan("all", 1, 100, flashcomm=True)


def model(x, first, second):
    functional = torch.ops._c10d_functional
    total = functional.wait_tensor(functional.all_reduce(x, "sum", "tp"))
    gate, up = total.chunk(2, -1)
    rows = torch.relu(gate) ** 2 * up
    return npu.product(torch.relu(rows @ first), second)


inputs = [torch.randn(*shape).bfloat16() for shape in ((8, 64), (32, 16), (16, 8))]
graph = traced(model, inputs).graph
with assuming(Group("tp", 2, 0)):
    fired = recognize(graph, Context(options, plan)).fired
    assert fired["gated_rule"] == 1, fired
    (node,) = graph.find_nodes(op="call_function", target=torch.ops.mine.gated.default)
    assert list(value(node).shape) == [8, 32]
    profile = profiles.read_profile("atlas-800-a2")
    found = {one.operator: one for one in estimate(graph, profile).operators}
    assert found["mine::gated"].seconds >= profile.vector_launch
    assert found["mine::product"].seconds >= profile.matmul_launch
    report = sequence_parallel(graph, Context(options, plan))
    assert report.fired == {"sequence_parallel": 1}, report
gathered = torch.ops._c10d_functional.all_gather_into_tensor.default
(gather,) = graph.find_nodes(op="call_function", target=gathered)
assert gather.args[0].target is torch.ops.mine.gated.default, gather.args
assert list(value(gather.args[0]).shape) == [4, 32]


def mlp(x, before, first, second):
    return npu.product(npu.gated(x @ before @ first), second)


inputs = [torch.randn(*shape).bfloat16() for shape in ((4, 8), (8, 8), (8, 32), (16, 8))]
(one,) = mlps(traced(mlp, inputs).graph)
assert operator_name(one.down) == "mine::product"
refused = dict(npu.legality("gated", {"x": torch.ones(2, 2)}, "Ascend910B"))
assert list(refused) == [False], refused
assert "| `gated` |" in make.operators_page() and "row-wise in `x`" in make.operators_page()
for words in (["list"], ["show", "gated_rule"], ["check", "gated_rule"]):
    assert main([*words, "--option", f"rule_path={folder}"]) == 0
"""


def test_an_operator_from_outside_is_recognized_costed_and_sharded(tmp_path):
    rules = tmp_path / "recognize"
    rules.mkdir()
    (tmp_path / "my_operators.py").write_text(OPERATORS)
    (rules / "gated_rule.py").write_text(RULE)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parent.parent
    path = os.pathsep.join(map(str, (root, tmp_path)))
    done = subprocess.run(
        [sys.executable, str(script), str(rules)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A squared ReLU of one half times the other half" in done.stdout
    assert "gated_rule: passed" in done.stdout
