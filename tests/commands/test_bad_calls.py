"""A wrong call ends in one line that says why; here a sample, which changes from day to day."""

from __future__ import annotations

import datetime
import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import folders
from tests.commands.bad_calls import LOADED, Call, every_call, fault, status_of

pytest.importorskip("transformers")

CALLS = 80
SEED = int(os.environ.get("ASCEND_PASSES_SEED") or datetime.date.today().toordinal())
SAMPLE = random.Random(SEED).sample([call for call in every_call() if call.quick], CALLS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    folders.make(folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(root)
    yield
    assert not Path("RAN").exists(), "code of the current folder was run"


def test_there_are_at_least_five_hundred() -> None:
    calls = list(every_call())
    assert len({str(call) + str(call.words) for call in calls}) == len(calls) >= 500


def test_the_command_finds_what_it_loads() -> None:
    """The command that makes all calls is not part of `make test`."""
    for name in LOADED:
        assert importlib.util.find_spec(f"ascend_passes.{name}") is not None, name


@pytest.mark.parametrize("call", SAMPLE, ids=lambda call: f"{SEED}: {call}")
def test_a_wrong_call_is_one_line(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of(call)
    out, err = capsys.readouterr()
    assert not fault(call, status, out, err), err
