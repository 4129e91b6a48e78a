"""The option `dump`: what is written where, and what is left alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

import ascend_passes
from ascend_passes.options.plans import Plan
from ascend_passes.options.value import OptionError, Options
from ascend_passes.report import dump
from ascend_passes.report.value import Report

PLAN = Plan("large prefill", 7, 9)
REPORT = Report(graph_before="# before\n", graph_after="# after\n")


def dumped(folder: Path, **options: object) -> Report:
    return dump.dumped(REPORT, PLAN, Options(dump=str(folder), **options))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_pairs_are_numbered_in_order(tmp_path: Path) -> None:
    assert dumped(tmp_path / "new" / "folder") == REPORT
    dumped(tmp_path / "new" / "folder")
    stems = [f"{number:03d}_large_prefill_7" for number in range(2)]
    assert names(tmp_path / "new" / "folder") == [
        f"{stem}.{side}.py" for stem in stems for side in ("after", "before")
    ]


def test_a_rank_has_its_own_names_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1, 1):
        monkeypatch.setattr(dump, "rank", lambda rank=rank: f"_rank{rank}")
        dumped(tmp_path)
    found = [name for name in names(tmp_path) if name.endswith("after.py")]
    assert [name.partition("_large")[0] for name in found] == [
        "000_rank0",
        "000_rank1",
        "001_rank1",
    ]


def test_a_process_of_a_group_names_its_rank() -> None:
    assert dump.rank() == ""
    distributed = torch.distributed
    distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    try:
        assert dump.rank() == "_rank3"
    finally:
        distributed.destroy_process_group()


def test_writers_at_once_do_not_share_a_number(tmp_path: Path) -> None:
    plans = [Plan(f"plan{index}", index, index) for index in range(24)]
    options = Options(dump=str(tmp_path), strict=True)
    threads = [threading.Thread(target=dump.dumped, args=(REPORT, plan, options)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [name.partition("_")[0] for name in names(tmp_path) if name.endswith("after.py")]
    assert len(numbers) == len(set(numbers)) == len(plans)
    assert len(names(tmp_path)) == 2 * len(plans)


def test_no_link_is_followed_and_nothing_overwritten(tmp_path: Path) -> None:
    folder, victim = tmp_path / "dump", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("mine")
    for number in range(3):
        (folder / f"{number:03d}_large_prefill_7.before.py").symlink_to(victim)
    (folder / "003_large_prefill_7.after.py").write_text("mine as well")
    (folder / ".004_").symlink_to(victim)
    assert not dumped(folder).errors
    assert victim.read_text() == "mine"
    assert (folder / "003_large_prefill_7.after.py").read_text() == "mine as well"
    assert "# after" in (folder / "005_large_prefill_7.after.py").read_text()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_none_is_a_line_in_the_report(tmp_path: Path, kind: str) -> None:
    place, elsewhere = tmp_path / "dump", tmp_path / "elsewhere"
    elsewhere.mkdir()
    place.symlink_to(elsewhere) if kind == "link" else place.write_text("mine")
    (error,) = dumped(place).errors
    assert error.startswith("dump failed and was left out: ")
    assert names(elsewhere) == []
    with pytest.raises(OptionError, match="dump failed"):
        dumped(place, strict=True)


def test_a_model_runs_whose_dump_fails(tmp_path: Path) -> None:
    place = tmp_path / "dump"
    place.symlink_to(tmp_path)
    model = lambda x: torch.nn.functional.silu(x) * x  # noqa: E731
    x = torch.randn(4, 64)
    ascend_passes.reset()
    found = torch.compile(model, backend="ascend_dense", options={"dump": str(place)})(x)
    torch.testing.assert_close(found, model(x))
    assert any("dump failed" in error for error in ascend_passes.reports()[-1].errors)
