"""A model that reads values on the host runs uncaptured, and the report has the line."""

from __future__ import annotations

import pytest
import torch

import ascend_passes

TABLE = torch.randn(50, 4)


def look_up(ids):
    return torch.nn.functional.embedding(ids, TABLE)


def cpu(ids):
    return look_up(ids) + look_up(ids).cpu()


def to_cpu(ids):
    return look_up(ids) + look_up(ids).to("cpu")


def item(ids):
    return look_up(ids) * 2 if look_up(ids).sum().item() > 1e9 else look_up(ids) * 3


def branch(ids):
    return look_up(ids) * 2 if look_up(ids).sum() > 1e9 else look_up(ids) * 3


def tolist(ids):
    first = look_up(ids) * 2
    return first + len(first.tolist())


def printed(ids):
    result = look_up(ids) * 2
    print(result.shape, result)
    return result


READS = {
    cpu: ("copied to the host", "look_up(ids).cpu()"),
    to_cpu: ("copied to the host", 'look_up(ids).to("cpu")'),
    item: ("the model's graph ends here", "look_up(ids).sum().item()"),
    branch: ("the model's graph ends here", "if look_up(ids).sum() > 1e9"),
    tolist: ("the model's graph ends here", "first.tolist()"),
    printed: ("the model's graph ends here", "print(result.shape, result)"),
}


def compiled(function, calls=3):
    """The report of each graph of a function that was called some times, capture on."""
    torch._dynamo.reset()
    ascend_passes.reset()
    options = {"cudagraph_mode": "FULL", "capture_sizes": "2"}
    step = torch.compile(function, backend="ascend_dense", options=options)
    with torch.no_grad():
        for _ in range(calls):
            ids = torch.randint(0, 50, (2, 1))
            assert torch.equal(step(ids), function(ids))
    return ascend_passes.reports()


@pytest.mark.parametrize("function", READS, ids=lambda function: function.__name__)
def test_it_runs_uncaptured_with_the_line_said_once(function, caplog):
    reason, line = READS[function]
    report = compiled(function)[0]
    (miss,) = [miss for miss in report.misses if miss.rule == "capture"]
    assert miss.reason.startswith("runs uncaptured: ") and reason in miss.reason
    assert line in miss.place.line and "test_host_reads.py" in miss.place.line
    assert "captured graphs: 0, of 3 calls 0 replayed one and 3 ran uncaptured" in report.notes
    said = [record.getMessage() for record in caplog.records if record.name == "ascend_passes"]
    assert len(said) == 1 and line in said[0]


def to_its_device(ids):
    rows = look_up(ids)
    return rows.to(rows.device) * 2


def test_a_step_that_reads_nothing_is_captured_and_reported():
    (report,) = compiled(to_its_device)
    assert report.fired["capture"] == 1
    assert not [miss for miss in report.misses if miss.rule == "capture"]
    assert "captured graphs: 1, of 3 calls 2 replayed one and 0 ran uncaptured" in report.notes
    assert "capture" in str(report) and "captured graphs: 1" in report.to_json()
