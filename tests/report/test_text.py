"""What a person reads: nothing that is none of their business, and all that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ascend_passes import Report
from ascend_passes.report.expected import expected_counts
from ascend_passes.report.families import FamilyCount, families_of, left_groups
from ascend_passes.report.fixes import fix_for
from ascend_passes.report.layers import modules, ranges
from ascend_passes.report.merge import merged
from ascend_passes.report.text import full_lines, summary_lines, text_of_report, wrapped
from ascend_passes.report.value import CaptureEvent, Decision, Left, Miss, Place
from tests.report.stack import LAYERS, report

REASONS = ("half", "whole")


def test_the_text_says_what_became_of_the_layers():
    lines = str(report()).splitlines()
    before, after = len(report().before), len(report().after)
    assert lines[0].startswith(f"kernels    {before} -> {after} (-")
    assert lines[0].endswith("ms on atlas-800-a2")
    assert any("layers 1-2: 18 -> 7 each" in line for line in lines)
    assert f"rms_norm {2 * LAYERS + 1} of {2 * LAYERS + 1}" in str(report())
    assert f"swiglu_unpacked {LAYERS} of {LAYERS}" in str(report())


def test_a_norm_without_a_residual_is_no_miss():
    assert any("stands where add is needed" in miss.reason for miss in report().misses)
    assert FamilyCount("add_rms_norm", LAYERS, LAYERS) in families_of(report())
    assert "left" not in str(report())


def test_what_a_user_could_gain_is_left_with_place_and_fix():
    found = report(shares=True)
    (group,) = left_groups(found.left)
    assert (group.family, group.count) == ("gated", LAYERS)
    assert group.where == "layers.{0-2}" and group.line.startswith("stack.py:")
    assert group.fix and "silu has 2 users" in group.reason
    assert FamilyCount("gated", 0, LAYERS) in families_of(found)
    assert f"gated 0 of {LAYERS}" in str(found)
    (line,) = (line for line in str(found).splitlines() if line.startswith("left"))
    assert "3 gated at layers.{0-2} (stack.py:" in line and "(fix: keep" in line


def test_a_family_is_counted_as_one_where_one_of_it_is_left():
    found = replace(
        report(), left=(Left("gated", Place("layers.1"), "it is shared"), *report().left)
    )
    assert found.families["swiglu_unpacked"] == "gated" and "add_rms_norm" not in found.families
    parts = (("swiglu_unpacked", LAYERS),)
    assert FamilyCount("gated", LAYERS, LAYERS + 1, parts) in families_of(found)
    assert f"gated ({LAYERS} swiglu_unpacked) {LAYERS} of {LAYERS + 1}" in str(found)
    assert "swiglu_unpacked 3 of" not in str(found)
    assert expected_counts([found])["swiglu_unpacked"] == LAYERS
    assert "gated" not in expected_counts([found])


def test_a_recognition_of_its_familys_name_is_counted_under_it():
    found = replace(report(), left=(Left("rms_norm", Place(), "small rows show no epsilon"),))
    norms = 2 * LAYERS + 1
    assert FamilyCount("rms_norm", norms, norms + 1) in families_of(found)


def test_equal_graphs_are_one():
    again = replace(report(), seconds={"recognize": 0.25})
    other = report(shares=True)
    one, two = merged([report(), again, other])
    assert one.numbers == (1, 2) and two.numbers == (3,)
    assert one.cold == sum(report().seconds.values()) and one.warm == 0.25
    assert two.warm is None
    lines = [line.text for line in full_lines(one, 100)]
    assert any("s cold, 0.250 s warm" in line for line in lines)


def test_graphs_that_differ_in_rows_alone_are_one():
    assert report(rows=4).before[-1].result != report(rows=6).before[-1].result
    assert len(merged([report(rows=4), report(rows=6)])) == 1


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_no_row_is_wider_than_the_terminal(width):
    for one in merged([report(), report(shares=True)]):
        for line in full_lines(one, width):
            rows = wrapped(line, width)
            assert all(len(row) <= width for row in rows)
            assert "".join("".join(rows).split()) == "".join((line.label + line.text).split())


def test_estimates_of_layers_need_a_wide_terminal():
    assert "ms: 3 mm" in text_of_report(report(), 120)
    assert "ms: 3 mm" not in text_of_report(report(), 60)


def test_one_line_for_logs():
    line = report(shares=True).log_line()
    assert "\n" not in line
    assert f"{2 * LAYERS + 1} rms_norm, {LAYERS} add_rms_norm" in line
    (reason,) = {one.reason for one in report(shares=True).left}
    assert f"; left {LAYERS} gated: {reason}; " in line and "silu has 2 users" in reason
    assert line.endswith(" s")
    assert Report().log_line() == "nothing fired; in 0.000 s"


def test_what_is_somebody_elses_is_counted():
    both = Report(kept={"vllm::moe_forward": 2}) + Report(kept={"vllm::moe_forward": 46})
    assert "; kept 48 vllm::moe_forward; " in both.log_line()
    assert "kept       48 vllm::moe_forward" in str(both)


def test_everything_else_has_its_line():
    made = Report(
        fired={"a": 1},
        notes=("a note",),
        errors=("broken",),
        decisions=(Decision("sequence_parallel", "all_reduce", "no gain", 0.002, 0.003),),
        plan="1 to 5 tokens",
        left=(Left("capture", Place(), "it moves", "hold it"),),
        captures=(CaptureEvent("replay", 8, 3),),
    )
    text = str(made)
    for part in (
        *("for        1 to 5 tokens", "note       a note", "error      broken"),
        "chosen     sequence_parallel: all_reduce, no gain (estimated 2.000 ms before, 3.000 ms",
        "left       1 capture at an unnamed place: it moves (fix: hold it)",
    ):
        assert part in text


def test_a_stage_alone_tells_whole_matches_that_were_refused():
    place = Place("layers.0")
    half, whole = (
        Miss("r", "n", place, reason, 2, reason == "whole") for reason in ("half", "whole")
    )
    text = str(Report(fired={"r": 1}, misses=(half, whole)))
    assert "r 1 of 2" in text and "whole" in text and "half" not in text


def test_a_model_of_equal_graphs_takes_few_lines():
    lines = list(summary_lines(merged([report(), replace(report(), seconds={})])))
    assert [line.label for line in lines][:2] == ["graphs 1-2", "fused"]
    assert f"; fused {4 * LAYERS + 1} of {4 * LAYERS + 1}; " in lines[0].text


@pytest.mark.parametrize(
    ("numbers", "text"), [([3], "3"), ([2, 0, 1], "0-2"), ([0, 1, 3, 7, 8], "0-1, 3, 7-8")]
)
def test_numbers_as_ranges(numbers, text):
    assert ranges(numbers) == text


def test_modules_of_several_layers_are_one():
    paths = ["m.layers.0.mlp", "m.layers.1.mlp", "m.norm", "m.layers.1.attn", ""]
    assert modules(paths) == "m.layers.{0-1}.mlp, m.norm, m.layers.1.attn, "


def test_reasons_that_are_known_have_a_fix():
    assert fix_for("npu_rms_norm has 2 users, 1 outside the pattern: mul")
    assert fix_for("the operator is blue") == ""
