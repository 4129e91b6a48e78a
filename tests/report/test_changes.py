"""What is gained and lost between two reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ascend_passes import Report
from ascend_passes.report.changes import GAINED, LOST, OTHER, changes_between
from ascend_passes.report.value import Left, Place
from tests.report.stack import LAYERS, report

LEFT = Left("swiglu", Place("layers.0.mlp"), "it is shared")


def found(old, new):
    return [(one.kind, one.text) for one in changes_between({"a": old}, {"b": new})]


def test_equal_reports_differ_in_nothing():
    assert found(report(), replace(report(), seconds={"recognize": 7.0})) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"after": report().before}, f"kernels that run: {len(report().after)} -> "),
        ({"fired": {**report().fired, "rms_norm": 1}}, "rms_norm fired 1 times of 1 possible, it "),
        ({"left": (LEFT, LEFT)}, "2 swiglu left at layers.0.mlp: it is shared"),
        ({"errors": ("reinplace failed",)}, "error: reinplace failed"),
    ],
)
def test_what_one_side_loses_the_other_gains(change, text):
    other = replace(report(), **change)
    lost, gained = found(report(), other), found(other, report())
    assert any(kind == LOST and said.startswith(text) for kind, said in lost)
    assert {kind for kind, _ in lost} == {LOST} and {kind for kind, _ in gained} == {GAINED}
    assert len(lost) == len(gained)


def test_an_estimate_counts_on_one_profile_alone():
    slower = tuple(replace(one, seconds=2 * one.seconds) for one in report().after)
    ((kind, text),) = found(report(), replace(report(), after=slower))
    assert kind == LOST and text.endswith("ms (+100.0%)")
    ((kind, text),) = found(report(), replace(report(), after=slower, profile="h100"))
    assert kind == OTHER and text == "estimates are on h100, not atlas-800-a2"


def test_another_model_is_said():
    assert (OTHER, f"the model has 0 kernels, it had {len(report().before)}") in found(
        report(), Report(profile=report().profile)
    )


def test_a_graph_that_one_side_has_is_said():
    old, new = {"a": report(), "b": report()}, {"b": report(), "c": report()}
    assert [(one.graph, one.kind) for one in changes_between(old, new)] == [
        ("a", LOST),
        ("c", OTHER),
    ]


def test_a_fusion_that_is_lost_in_a_real_model_is_named():
    lost = found(report(), report(shares=True))
    of = f"0 times of {LAYERS} gated possible"
    assert (LOST, f"swiglu_unpacked fired {of}, it was {LAYERS}") in lost
