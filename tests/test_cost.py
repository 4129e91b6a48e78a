"""The cost model: bytes on the wire, and where FlashComm begins to pay."""

from __future__ import annotations

import pytest

from ascend_passes import cost, profiles
from ascend_passes.crossing import flashcomm_crossing
from ascend_passes.dense_layers import GROUP, Sizes, layers_graph, rewritten
from ascend_passes.groups import Group, assuming
from ascend_passes.options import OptionError, Options

RANKS, TOKENS = 4, 2048
APART = Options(matmul_reduce_scatter=False)


def wire(flashcomm: bool, layers: int) -> float:
    graph = rewritten(layers_graph(Sizes(), layers, RANKS), APART, RANKS, flashcomm)
    with assuming(Group(GROUP, RANKS, 0)):
        return cost.estimate(graph, profiles.ATLAS_800_A2, TOKENS).wire_bytes


def test_a_layer_sends_two_all_reduces() -> None:
    rows = TOKENS * Sizes().hidden * 2
    assert wire(False, 3) - wire(False, 2) == 2 * 2 * rows * (RANKS - 1) / RANKS


def test_flashcomm_gathers_int8_rows_and_a_scale_for_each() -> None:
    half, rows = TOKENS * Sizes().hidden * 2, TOKENS * (Sizes().hidden + 4)
    assert wire(True, 3) - wire(True, 2) == 2 * (half + rows) * (RANKS - 1) / RANKS


def test_flashcomm_pays_for_prefill_and_not_for_decode() -> None:
    graph = layers_graph(Sizes(), 2, RANKS)
    with assuming(Group(GROUP, RANKS, 0)):
        found = flashcomm_crossing(graph, APART)
    assert found is not None and 1 < found < 4096


@pytest.mark.parametrize("turn", [1, 2, 777, 65536])
def test_crossing_finds_the_turn(turn: int) -> None:
    assert cost.crossing(lambda _: 1.0, lambda tokens: 0.0 if tokens >= turn else 2.0) == turn


def test_no_crossing_where_it_never_pays() -> None:
    assert cost.crossing(lambda _: 1.0, lambda _: 1.0) is None


def test_a_profile_survives_its_file(tmp_path: object) -> None:
    path = tmp_path / "profile.json"  # type: ignore[operator]
    path.write_text(profiles.ATLAS_800_A2.to_json())
    assert profiles.read(str(path)) == profiles.ATLAS_800_A2


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="atlas-800-a2"):
        profiles.read("atlas-801")
