"""Ranks that would run different graphs get an error, all of them, and nobody waits."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import FORCED, compiled, shared_ids
from ranks import Ranks
from stacks import Kind, Stack

from ascend_passes.agreement import exchange
from ascend_passes.agreement import require as agreement
from ascend_passes.compile import variant as pipeline_compiled
from ascend_passes.executors.execute import ExecutorError

SECONDS = 60
"""Compiling on a busy machine included; a collective that nobody joins would wait for minutes."""


def differing(topic: str) -> tuple[str, float]:
    """Compile with something that only this rank has; the error and the seconds it took."""
    first = dist.get_rank() == 0
    torch.manual_seed(0)
    ranks = dist.get_world_size()
    layers = 3 if first and topic == "graph" else 2
    kind = Kind(auxiliary=first and topic == "auxiliary")
    model = Stack(kind, 3, dist.group.WORLD.group_name, ranks)
    model.layers = model.layers[:layers]
    options: dict[str, Any] = {"passes": FORCED, "rules": "-*"}
    if topic == "options":
        options["flashcomm"] = first
    if topic == "bad option" and first:
        options["flashcomm_tokens"] = -5
    identity, execute = agreement.identity, pipeline_compiled.execute
    if topic == "version":
        agreement.identity = lambda given: f"{'older' if first else 'newer'}{identity(given)}"
    if topic == "executor" and first:
        pipeline_compiled.execute = unable
    ids = shared_ids((8,))
    start = time.perf_counter()
    try:
        with torch.no_grad():
            compiled(model, options, dynamic=False)(ids)
        text = ""
    except Exception as error:
        text = str(error)
    finally:
        agreement.identity, pipeline_compiled.execute = identity, execute
    return text, time.perf_counter() - start


def unable(*_: Any) -> Any:
    raise ExecutorError("the engine is missing here")


@pytest.mark.parametrize("topic", ["options", "graph", "version"])
def test_a_difference_is_an_error_on_all_ranks(two: Ranks, topic: str) -> None:
    for text, seconds in two.run(differing, topic):
        assert "ranks [0] have" in text and "ranks [1] have" in text
        assert {"options": "flashcomm=", "graph": "collectives", "version": "older"}[topic] in text
        assert seconds < SECONDS


@pytest.mark.parametrize(
    ("topic", "why"), [("executor", "the engine is missing here"), ("bad option", "at least -1")]
)
def test_a_rank_that_fails_tells_the_others(two: Ranks, topic: str, why: str) -> None:
    (own, _), (other, seconds) = two.run(differing, topic)
    assert why in own
    assert "rank 0 of the group" in other and "failed to compile" in other and why in other
    assert seconds < SECONDS


def late() -> str:
    """One rank comes to the exchange when the other has given up waiting."""
    real = exchange.PATIENCE
    exchange.PATIENCE = timedelta(seconds=1)
    ranks = tuple(range(dist.get_world_size()))
    if dist.get_rank() == 1:
        time.sleep(3)
    try:
        exchange.exchange({"late": ranks}, "a test", {"late": dist.get_rank()})
        return ""
    except exchange.AgreementError as error:
        return str(error)
    finally:
        exchange.PATIENCE = real


def test_a_late_rank_does_not_go_on_alone(two: Ranks) -> None:
    first, second = two.run(late)
    assert "rank 1 of the group of ranks [0, 1] did not compile this graph" in first
    assert "rank 0 of the group of ranks [0, 1] failed" in second


def test_equal_ranks_agree(two: Ranks) -> None:
    assert [text for text, _ in two.run(differing, "nothing")] == ["", ""]
