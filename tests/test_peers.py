"""`bench peers` on this machine: who is measured, what of, and what is drawn."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ascend_passes.__main__ import main
from ascend_passes.cli import bench_peers
from ascend_passes.cli.bench_peers import Peer, least_and_most, peer_of, peers_figure, rows

pytest.importorskip("transformers")
SMALL = ("--layers", "1", "--heads", "2", "--prompt-length", "8", "--tokens", "3", "--rounds", "2")
EAGER = Peer("eager", 4.0, (3.0, 5.0), 2.0, (1.0, 9.0), 0.5, 0.0)
OTHER = Peer("ascend_dense", 1.0, (1.0, 2.0), 3.0, (2.0, 4.0), 7.0, 0.01)
FEW = {"cpu": {"ascend_dense": {"backend": "ascend_dense"}}}


@pytest.fixture
def few_peers(monkeypatch):
    """Without Inductor, whose compiler takes a minute here."""
    monkeypatch.setattr(bench_peers, "COMPILED", FEW)
    torch._dynamo.reset()


def test_the_peers_of_a_cpu_are_eager_inductor_and_ours():
    assert set(bench_peers.COMPILED) == {"cpu", "cuda", "npu"}
    backends = {name: given["backend"] for name, given in bench_peers.COMPILED["cpu"].items()}
    assert backends == {
        "Inductor": "inductor",
        "ascend_dense": "ascend_dense",
        "ascend_dense, executor=inductor": "ascend_dense",
    }


def test_a_small_model_is_measured_and_drawn(few_peers, capsys, tmp_path):
    plot = tmp_path / "peers.png"
    words = ("bench", "peers", *SMALL, "--dtype", "float32", "--device", "cpu", "--json")
    assert main([*words, "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert torch.__version__ in found["machine"] and "threads" in found["machine"]
    eager, ours = found["peers"]
    assert [eager["name"], ours["name"]] == ["eager", "ascend_dense"]
    for one in (eager, ours):
        for step in ("prompt", "token"):
            low, high = one[f"{step}_range"]
            assert 0 < low <= one[step] <= high
    assert eager["from_eager"] == 0 and ours["from_eager"] < 1e-5
    assert ours["first_seconds"] > 1e-3 * ours["prompt"]


def test_a_peer_that_computes_something_else_is_a_negative_answer(few_peers, monkeypatch, capsys):
    class Wrong(nn.Module):
        def forward(self, x):
            return 2 * x

    real = bench_peers.work_for

    def broken(arguments, where):
        """A work of which the compiled part sees a changed model."""
        work = real(arguments, where)
        plain = work.model.model.norm
        compiled = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda model, **given: compiled(doubled(model), **given)
        )

        def doubled(model):
            def call(**inputs):
                model.model.norm = nn.Sequential(plain, Wrong())
                found = model(**inputs)
                model.model.norm = plain
                return found

            return call

        return work

    monkeypatch.setattr(bench_peers, "work_for", broken)
    assert main(["bench", "peers", *SMALL, "--dtype", "float32", "--device", "cpu"]) == 1
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[0] == "ascend_dense" and float(last[-1]) == pytest.approx(1.0, abs=1e-3)


def test_the_figures_of_a_peer_are_medians_and_ranges():
    logits = {"eager": torch.tensor([3.0, 4.0]).double(), "a": torch.tensor([3.0, 4.5]).double()}
    found = peer_of("a", [(1.0, 8.0), (5.0, 2.0), (3.0, 4.0)], 9.0, logits)
    assert found == Peer("a", 3.0, (1.0, 5.0), 4.0, (2.0, 8.0), 9.0, 0.1)
    assert least_and_most([2.0, 1.0, 3.0]) == (1.0, 3.0)


def test_a_row_says_how_much_of_eagers_time_it_took():
    _, row = rows([EAGER, OTHER])
    assert row == (
        "ascend_dense",
        "1.00 (1.00-2.00)",
        "25%",
        "3.00 (2.00-4.00)",
        "150%",
        "7.0",
        "0.01",
    )


def test_the_plot_has_a_bar_for_each_peer_and_step_with_its_range():
    pytest.importorskip("matplotlib")
    axes = peers_figure([EAGER, OTHER], "title").axes
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == ["eager", "ascend_dense"]
    for axis, times, spans in zip(
        axes,
        ([4.0, 1.0], [2.0, 3.0]),
        ([(3.0, 5.0), (1.0, 2.0)], [(1.0, 9.0), (2.0, 4.0)]),
        strict=True,
    ):
        bars, lines = axis.patches, axis.collections[0].get_segments()
        assert [bar.get_width() for bar in bars] == times
        assert [(low, high) for ((low, _), (high, _)) in lines] == spans
