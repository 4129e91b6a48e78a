"""The kernels of both graphs in a report, and which of them stands for which."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, fx

import ascend_passes
from ascend_passes.compile import variant
from ascend_passes.compile.stages import STAGES
from ascend_passes.cost.profiles import ATLAS_800_A2
from ascend_passes.ir.lineage import lineage_followed
from ascend_passes.options.plans import UNBOUNDED, Plan, said_plan
from ascend_passes.report.layers import layers_of
from tests.report.stack import LAYERS, H, report

aten = torch.ops.aten
NORM = ["aten::pow", "aten::mean", "aten::add", "aten::rsqrt", "aten::mul", "aten::mul"]


def covered(kernel):
    by_name = {one.name: one.operator for one in report().before}
    return [by_name[name] for name in kernel.covers]


def test_every_kernel_of_the_model_is_covered_once():
    found = report()
    covers = Counter(name for one in (*found.after, *found.once) for name in one.covers)
    assert covers == Counter(one.name for one in found.before)


def test_a_fused_kernel_covers_what_it_computes():
    by_module = {one.place.module: one for one in report().after if "norm" in one.operator}
    assert covered(by_module["layers.1.q_norm"]) == NORM
    assert covered(by_module["layers.1.norm"]) == ["aten::add", *NORM]
    assert covered(by_module["norm"]) == ["aten::add", *NORM]


def test_what_no_pass_touched_covers_itself():
    matmuls = [one for one in report().after if one.operator == "aten::mm"]
    assert len(matmuls) == 3 * LAYERS
    assert all(one.covers == (one.name,) and not one.author for one in matmuls)


def test_a_kernel_says_what_it_reads_writes_and_costs():
    first = next(one for one in report().after if one.operator == "aten::mm")
    assert first.result == f"float32[4, {H}]"
    assert first.place.line.startswith("stack.py:")
    bytes_moved = 4 * (4 * H + H * H + 4 * H)
    assert first.memory_bytes == bytes_moved
    seconds = ATLAS_800_A2.matmul_launch + bytes_moved / ATLAS_800_A2.memory_bandwidth
    assert first.seconds == pytest.approx(seconds)
    names = {one.name: one.operator for one in report().after}
    assert [names[name] for name in first.inputs] == ["npu::npu_rms_norm"]


def test_layers_hold_the_kernels_of_their_modules():
    *layers, outside = layers_of(report())
    assert [layer.path for layer in layers] == [f"layers.{n}" for n in range(LAYERS)]
    assert outside.path == ""
    assert {one.place.module for one in outside.after} <= {"norm", ""}
    assert sum(len(one.before) for one in (*layers, outside)) == len(report().before)


def test_what_starts_again_forgets_who_took_whose_place():
    def graph():
        made = fx.Graph()
        x = made.placeholder("x")
        made.output(
            made.call_function(aten.neg.default, (made.call_function(aten.neg.default, (x,)),))
        )
        return made

    gm = fx.GraphModule({}, graph())
    with lineage_followed(gm) as lineage:
        for _ in range(2):
            inner, outer = gm.graph.find_nodes(op="call_function", target=aten.neg.default)
            outer.replace_all_uses_with(inner.args[0])
            gm.graph.erase_node(outer)
            gm.graph.erase_node(inner)
            assert lineage.heirs == {outer.name: "x", inner.name: "x"}
            assert lineage.successor(inner.name, {"x"}) == "x"
            assert lineage.successor("other", {"x"}) == ""
            gm.graph = graph()


def test_an_operator_without_a_cost_is_said_and_breaks_nothing(monkeypatch):
    def fail(*_):
        raise ValueError("no cost")

    monkeypatch.setattr(variant, "recorded", fail)
    from tests.report.stack import Stack

    torch._dynamo.reset()
    import ascend_passes

    found = ascend_passes.explain(Stack(), torch.randn(3, H))
    assert found.fired["rms_norm"] == 2 * LAYERS + 1
    assert "kernels were not counted: ValueError: no cost" in found.errors
    assert not found.before


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(1, UNBOUNDED, ""), (1, 1000, "1 to 1000 tokens"), (1001, UNBOUNDED, "1001 tokens and more")],
)
def test_a_plan_in_words(low, high, text):
    assert said_plan(Plan("any", low, high)) == text


def test_stages_are_timed_by_name():
    assert set(report().seconds) <= {stage.name for stage in STAGES}


@torch.library.custom_op("ascend_passes_record::negate_rows", mutates_args=("rows",))
def negate_rows(rows: Tensor) -> None:
    """An operator as vLLM's: all that it computes is what it writes."""
    rows.neg_()


def test_a_call_that_writes_is_a_kernel_in_both_graphs() -> None:
    """Before, AOTAutograd has it wrapped; one of the graph after alone would look like a loss."""

    def model(x: Tensor) -> Tensor:
        rows = x + 1
        negate_rows(rows)
        return rows

    report = ascend_passes.explain(model, torch.ones(4, 8))
    before, after = (
        [(one.operator, one.seconds, one.memory_bytes) for one in kernels]
        for kernels in (report.before, report.after)
    )
    assert "ascend_passes_record::negate_rows" in [name for name, *_ in before]
    assert before == after and report.fired["reinplace"] == 1
