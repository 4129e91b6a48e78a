"""The cost model: bytes on the wire, and where FlashComm begins to pay."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from ascend_passes.cli.dense_layers import GROUP, Sizes, after_passes, layers_graph
from ascend_passes.cost import model as cost
from ascend_passes.cost import profiles
from ascend_passes.distributed.groups import Group, assuming
from ascend_passes.ir import trace
from ascend_passes.ir.graph import Context, operator_name
from ascend_passes.options.plans import UNBOUNDED, Plan, divided, pick, plans
from ascend_passes.options.value import OptionError, Options
from ascend_passes.passes.flashcomm.sequence_parallel import sequence_parallel
from ascend_passes.report.value import Report
from tests.bench import fit_operator_times as fit

RANKS, TOKENS = 4, 2048
APART = Options(matmul_reduce_scatter=False)


def wire(flashcomm: bool, layers: int) -> float:
    graph = after_passes(layers_graph(Sizes(), layers, RANKS), APART, RANKS, flashcomm)
    with assuming(Group(GROUP, RANKS, 0)):
        return cost.estimate(graph, profiles.ATLAS_800_A2, TOKENS).wire_bytes


def test_a_layer_sends_two_all_reduces() -> None:
    rows = TOKENS * Sizes().hidden * 2
    assert wire(False, 3) - wire(False, 2) == 2 * 2 * rows * (RANKS - 1) / RANKS


def test_flashcomm_gathers_int8_rows_and_a_scale_for_each() -> None:
    half, rows = TOKENS * Sizes().hidden * 2, TOKENS * (Sizes().hidden + 4)
    assert wire(True, 3) - wire(True, 2) == 2 * (half + rows) * (RANKS - 1) / RANKS


def decided(tokens: int, layers: int = 2) -> Report:
    graph = layers_graph(Sizes(), layers, RANKS)
    plan = Plan("prefill", tokens, UNBOUNDED, flashcomm=True)
    with assuming(Group(GROUP, RANKS, 0)):
        return sequence_parallel(graph, Context(plan=plan))


def test_flashcomm_pays_for_prefill_and_not_for_decode() -> None:
    start = decided(1).decisions[0].gain_from
    assert start is not None and 1 < start < 4096
    for tokens, fired in ((start // 2, 0), (start, 4), (4 * start, 4)):
        report = decided(tokens)
        (decision,) = report.decisions
        assert report.fired.get("sequence_parallel", 0) == fired
        assert decision.before is not None and decision.after is not None
        assert (decision.after < decision.before) == bool(fired)


def test_the_report_of_a_layer_of_qwen3_32b_says_what_moves() -> None:
    report = decided(TOKENS, layers=1)
    half, rows = TOKENS * Sizes().hidden * 2, TOKENS * (Sizes().hidden + 4)
    share = (RANKS - 1) / RANKS / 2**20
    # Of the two sums one is gathered as int8 rows and their scales; the other leaves the graph as
    # hidden states in bfloat16.
    before, after = 2 * 2 * half * share, (2 * half + rows + half) * share
    reason = f"at {TOKENS} tokens each rank sends {after:.2f} MiB instead of {before:.2f} MiB"
    assert report.decisions[0].reason == reason
    counts = "1 of bfloat16, 1 of float32, 1 of int8"
    assert report.notes == (f"sequence_parallel gathers 3 values: {counts}",)


@pytest.mark.parametrize("turn", [1, 2, 777, 65536])
def test_crossing_finds_the_turn(turn: int) -> None:
    assert cost.crossing(lambda _: 1.0, lambda tokens: 0.0 if tokens >= turn else 2.0) == turn


def test_no_crossing_where_it_never_pays() -> None:
    assert cost.crossing(lambda _: 1.0, lambda _: 1.0) is None


def test_a_profile_survives_its_file(tmp_path: object) -> None:
    path = tmp_path / "profile.json"  # type: ignore[operator]
    path.write_text(profiles.ATLAS_800_A2.to_json())
    assert profiles.read_profile(str(path)) == profiles.ATLAS_800_A2


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="atlas-800-a2"):
        profiles.read_profile("atlas-801")


@pytest.mark.parametrize(
    ("given", "starts"),
    [
        ({}, {1: (False, False)}),
        ({"matmul_all_reduce": True}, {1: (False, False), 1001: (False, True)}),
        ({"flashcomm": True}, {1: (False, False), 1001: (True, True)}),
        (
            {"flashcomm": True, "flashcomm_tokens": 400},
            {1: (False, False), 401: (True, False), 1001: (True, True)},
        ),
        (
            {"flashcomm": True, "flashcomm_tokens": 2000, "matmul_all_reduce": True},
            {1: (False, False), 1001: (False, True), 2001: (True, True)},
        ),
        ({"flashcomm": True, "flashcomm_tokens": -1}, {1: (True, False), 1001: (True, True)}),
    ],
)
def test_plans_begin_right_above_their_thresholds(
    given: dict[str, Any], starts: dict[int, tuple[bool, bool]]
) -> None:
    found = plans(Options(**given))
    assert {plan.low: (plan.flashcomm, plan.matmul_collective) for plan in found} == starts
    assert [plan.high + 1 for plan in found[:-1]] == [plan.low for plan in found[1:]]


def test_a_plan_is_divided_without_a_gap() -> None:
    choices = plans(Options(flashcomm=True))
    ranges = [(plan.low, plan.high) for plan in divided(choices, choices[1], 3000)]
    assert ranges == [(1, 1000), (1001, 2999), (3000, UNBOUNDED)]


def test_plans_that_are_compared_fuse_the_same_norms() -> None:
    """Else one of them would pay for kernels that the compiled graph has not."""

    def norms(flashcomm: bool) -> Counter[str]:
        graph = after_passes(layers_graph(Sizes(), 2, RANKS), APART, RANKS, flashcomm)
        names = (operator_name(node) for node in graph.nodes)
        return Counter(name for name in names if "rms_norm" in name or name == "aten::add")

    assert norms(False) == norms(True)
    assert norms(False)["npu::npu_add_rms_norm_dynamic_quant"] == 3


FIGURES = json.loads(profiles.ATLAS_800_A2.to_json())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"matmul_rates": {}}, "matmul_rates must hold"),
        ({"matmul_rates": {"int8": "1e12"}}, "must be a number from 1 to"),
        ({"matmul_rates": {"int8": True}}, "must be a number from 1 to"),
        ({"matmul_rates": {"int8": math.nan}}, "not nan"),
        ({"memory_bandwidth": 0}, "memory_bandwidth must be a number from 1"),
        ({"memory_bandwidth": math.inf}, "not inf"),
        ({"link_bandwidth": -1.0}, "link_bandwidth must be a number from 1"),
        ({"hop_latency": -1e-9}, "hop_latency must be a number from 0 to 60"),
        ({"collective_latency": 1e3}, "collective_latency must be a number from 0 to 60"),
        ({"name": ["x"]}, "name must be a text"),
        ({"memory_bandwith": 1e12}, "Did you mean 'memory_bandwidth'"),
    ],
)
def test_a_figure_that_no_device_has_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(FIGURES | change))
    with pytest.raises(OptionError, match=reason):
        profiles.read_profile(str(path))


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([], "must hold times of all_reduce, reduce_scatter, all_gather"),
        ({"broadcast": [[0, 1e-5], [1, 2e-5]]}, "must hold times of all_reduce"),
        ({"all_reduce": [[0, 1e-5]]}, "must hold two pairs"),
        ({"all_reduce": [[0, 1e-5], 7]}, "must hold two pairs"),
        ({"all_reduce": [[0, 1e-5], [1e6, "2e-5"]]}, "seconds in .* must be a number"),
        ({"all_reduce": [[5, 1e-5], [5, 2e-5]]}, "must rise"),
        ({"all_reduce": [[5, 2e-5], [9, 1e-5]]}, "must rise"),
    ],
)
def test_times_of_collectives_that_no_machine_has_are_refused(
    tmp_path: Path, times: Any, reason: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(FIGURES | {"collective_times": times}))
    with pytest.raises(OptionError, match=reason):
        profiles.read_profile(str(path))


def test_measured_times_of_collectives_take_the_place_of_the_formula(tmp_path: Path) -> None:
    points = ((1000.0, 1e-5), (1e6, 2e-5), (3e6, 6e-5))
    measured = replace(profiles.ATLAS_800_A2, collective_times={"all_gather": points})
    path = tmp_path / "profile.json"
    path.write_text(measured.to_json())
    found = profiles.read_profile(str(path))
    assert found == measured
    for sent, seconds in ((0.0, 1e-5), (1000.0, 1e-5), (2e6, 4e-5), (3e6, 6e-5), (5e6, 10e-5)):
        assert found.collective_seconds("all_gather", sent) == pytest.approx(seconds)
    for kind, hops in (("all_reduce", 2), ("reduce_scatter", 1)):
        formula = found.collective_latency + hops * found.hop_latency + 1e6 / found.link_bandwidth
        assert found.collective_seconds(kind, 1e6) == pytest.approx(formula)


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "collective_times"])
def test_no_figure_may_be_missing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({key: FIGURES[key] for key in FIGURES if key != name}))
    with pytest.raises(OptionError, match=f"{name} is missing"):
        profiles.read_profile(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bytes"),
        (" " * 70000, "bytes"),
        ("[" * 60000, "nested too deeply"),
        ("[]", "must hold a JSON object"),
        (f'{{"hop_latency": {"9" * 5000}}}', "digits"),
    ],
)
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=reason):
        profiles.read_profile(str(path))


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/kmsg", "/", "x" * 5000, "\0"])
def test_what_is_no_ordinary_file_is_not_read(name: str) -> None:
    with pytest.raises(OptionError, match="nor a profile file"):
        profiles.read_profile(name)


def test_a_profile_of_one_process_has_endless_links(tmp_path: Path) -> None:
    alone = replace(profiles.ATLAS_800_A2, link_bandwidth=math.inf)
    path = tmp_path / "profile.json"
    path.write_text(alone.to_json())
    assert profiles.read_profile(str(path)) == alone


def test_a_call_without_tokens_has_a_plan() -> None:
    options = Options(prefetch_mlp=True)
    assert pick(plans(options), 0) == pick(plans(options), 1)


def test_a_symbolic_size_that_became_a_number_is_no_count_of_tokens() -> None:
    rows = trace.symbolic_inputs([(7, 4)], [torch.float32], "cpu")[0]
    graph = fx.Graph()
    left, right = graph.placeholder("left"), graph.placeholder("right")
    left.meta["val"], right.meta["val"] = rows, torch.ones(4, 4)
    graph.call_function(torch.ops.aten.mm.default, (left, right))
    assert cost.token_rows(graph) is not None
    assert rows.shape[0] == 7  # a guard: from here on it is no symbol
    assert cost.token_rows(graph) is None
    assert cost.numbers(graph, 100)(rows.shape[0]) == 7


@pytest.mark.parametrize(
    ("operator", "stated"),
    [
        ("add_rms_norm", 0.18),
        ("rms_norm", 0.22),
        ("dynamic_quant", 0.33),
        ("ascend_quant_v2", 0.35),
        ("swiglu", 0.30),
        ("matmul", 0.24),
        ("quant_batch_matmul", 0.11),
    ],
)
def test_the_atlas_profile_is_as_near_to_measured_times_as_is_stated(
    operator: str, stated: float
) -> None:
    """`docs/measurements.md`; the figures come from `python tests/bench/fit_operator_times.py`."""
    figures = fit.present()
    found = statistics.median(fit.errors_with(fit.of_profile(operator, figures), operator))
    before = statistics.median(fit.errors_with(fit.of_profile(operator, fit.GUESSED), operator))
    assert found <= stated < before
