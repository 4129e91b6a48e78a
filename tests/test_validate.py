"""The option `validate`: a rewrite that computes something else is left out and told."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import silu

import ascend_passes
from ascend_passes.compile import pipeline
from ascend_passes.compile.stages import Stage
from ascend_passes.report.value import Report
from ascend_passes.verify.validate import wide_difference

WRONG_RULE = '''"""The gate and the rows change places."""
from typing import Annotated
import torch
from torch import Tensor
from ascend_passes import Rule, npu
X = Annotated[Tensor, "... N"]
def pattern(x: X, y: X):
    return torch.nn.functional.silu(x) * y
def replacement(x: X, y: X):
    return npu.npu_swiglu(torch.cat([{order}], -1), -1)
rule = Rule(pattern, replacement, examples=[{{"N": 64}}])
'''
OWN_SPELLINGS = "-swiglu,-swiglu_unpacked"


def gate(x, y):
    return silu(x) * y


def compiled_with(tmp_path, order, **options):
    """(largest error, report) of `gate` under a rule of the user's."""
    (tmp_path / "my_gate.py").write_text(WRONG_RULE.format(order=order))
    torch._dynamo.reset()
    ascend_passes.reset()
    options = {"rule_path": str(tmp_path), "rules": OWN_SPELLINGS, **options}
    x, y = torch.randn(2, 8, 64)
    found = torch.compile(gate, backend="ascend_dense", options=options)(x, y)
    return (found - gate(x, y)).abs().max().item(), sum(ascend_passes.reports(), Report())


def test_a_wrong_rule_is_refused_and_told(tmp_path):
    error, report = compiled_with(tmp_path, "y, x", validate=True)
    assert error < 1e-6
    assert report.fired.get("my_gate", 0) == 0
    (miss,) = [one for one in report.misses if one.rule == "my_gate"]
    assert miss.complete and miss.reason.startswith("validate: result 0 differs by")


def test_the_same_rule_is_wrong_without_the_option(tmp_path):
    error, report = compiled_with(tmp_path, "y, x")
    assert error > 0.1
    assert report.fired["my_gate"] == 1


def test_a_right_rule_fires_under_the_option(tmp_path):
    error, report = compiled_with(tmp_path, "x, y", validate=True)
    assert error < 1e-6
    assert report.fired["my_gate"] == 1
    assert not report.errors


def test_strict_makes_the_difference_an_error(tmp_path):
    with pytest.raises(Exception, match="validate: result 0 differs by"):
        compiled_with(tmp_path, "y, x", validate=True, strict=True)


def forgets_a_sum(graph, context):
    """A pass that is wrong: the first addition gives its first operand."""
    node = next(n for n in graph.nodes if n.target is torch.ops.aten.add.Tensor)
    node.replace_all_uses_with(node.args[0])
    graph.erase_node(node)
    return Report(fired={"forgets_a_sum": 1})


def reads_before_it_writes(graph, context):
    """A pass that is wrong: zeros that nobody wrote become memory with whatever is in it."""
    node = next(n for n in graph.nodes if n.target is torch.ops.aten.zeros.default)
    node.target = torch.ops.aten.empty.memory_format
    return Report(fired={"reads_before_it_writes": 1})


@pytest.mark.parametrize(
    ("stage", "function"),
    [
        (forgets_a_sum, lambda x: (x.sin() + x.cos()).exp()),
        (reads_before_it_writes, lambda x: x.exp() * torch.zeros(8, 64).cos()),
    ],
)
def test_a_stage_that_changes_the_graph_is_left_out(monkeypatch, stage, function):
    added = Stage(stage.__name__, stage)
    monkeypatch.setattr(pipeline, "STAGES", (*pipeline.STAGES, added))
    torch._dynamo.reset()
    ascend_passes.reset()
    x = torch.randn(8, 64)
    options = {"validate": True, "passes": "-fold_constants"}  # which would take the zeros away
    found = torch.compile(function, backend="ascend_dense", options=options)(x)
    torch.testing.assert_close(found, function(x))
    (error,) = sum(ascend_passes.reports(), Report()).errors
    assert error.startswith(f"{stage.__name__} failed and was left out: ValidationError: validate:")


def test_writes_of_inputs_are_compared(monkeypatch):
    def drops_writes(graph, context):
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        return Report()

    monkeypatch.setattr(pipeline, "STAGES", (Stage("drops_writes", drops_writes), *pipeline.STAGES))
    torch._dynamo.reset()
    ascend_passes.reset()

    def step(cache, x):
        cache.mul_(2).add_(x)
        return x * 2

    cache, x = torch.ones(8), torch.randn(8)
    torch.compile(step, backend="ascend_dense", options={"validate": True})(cache, x)
    torch.testing.assert_close(cache, 2 + x)
    assert "drops_writes failed" in sum(ascend_passes.reports(), Report()).errors[0]


def test_what_cannot_be_run_is_noted():
    def function(x):
        return x.nonzero().float().sum() + x.sum()

    torch._dynamo.reset()
    ascend_passes.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(function, backend="ascend_dense", options={"validate": True})
        x = torch.ones(4)
        assert compiled(x) == function(x)
    notes = sum(ascend_passes.reports(), Report()).notes
    assert any("sizes that its data decides" in note for note in notes)


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-12], True),
        ([1.0, 2.0], [1.0, 2.0 + 1e-8], False),
        ([float("nan")], [float("nan")], True),
        ([float("nan")], [0.0], False),
        ([float("inf"), 1.0], [float("inf"), 1.0], True),
        ([float("inf"), 1.0], [1.0, 1.0], False),
        ([0.0], [1e-300], False),
    ],
)
def test_bounds_of_floating_values(wanted, found, same):
    sentence = wide_difference(
        torch.tensor(wanted, dtype=torch.float64), torch.tensor(found, dtype=torch.float64)
    )
    assert (sentence is None) == same


@pytest.mark.parametrize(
    ("steps", "share", "same"), [(0, 1.0, True), (1, 1e-3, True), (1, 0.1, False), (2, 1e-3, False)]
)
def test_bounds_of_integers(steps, share, same):
    wanted = torch.zeros(1000, dtype=torch.int8)
    found = wanted.clone()
    found[: int(share * 1000)] = steps
    assert (wide_difference(wanted, found) is None) == same


def test_the_report_of_a_validated_graph_is_the_same(tmp_path):
    _, plain = compiled_with(tmp_path, "x, y")
    _, validated = compiled_with(tmp_path, "x, y", validate=True)
    strip = lambda report: dataclasses.replace(report, seconds={})  # noqa: E731
    assert strip(plain) == strip(validated)
