"""Bytes that collectives send: counted from the calls as the profiler sees them run, and as the
kernel saw the process write them."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

SENT = {
    # Operator -> what a rank sends of its input's bytes, n being the ranks.
    "_c10d_functional::all_reduce": lambda n: 2 * (n - 1) / n,
    "_c10d_functional::reduce_scatter_tensor": lambda n: (n - 1) / n,
    "_c10d_functional::all_gather_into_tensor": lambda n: n - 1,
    "_c10d_functional::all_gather_into_tensor_coalesced": lambda n: n - 1,
    "vllm::all_reduce": lambda n: 2 * (n - 1) / n,
    "vllm::reduce_scatter": lambda n: (n - 1) / n,
    "vllm::all_gather": lambda n: n - 1,
}
WAIT = "_c10d_functional::wait_tensor"
ELEMENT_BYTES = {"signed char": 1, "c10::BFloat16": 2, "c10::Half": 2, "float": 4, "double": 8}


@dataclass(frozen=True)
class Wire:
    """The functional collectives of one call."""

    counts: dict[str, int]
    sent: float
    """Bytes each rank sends by the algorithms that send least."""


def wire(call: Callable[[], Any], ranks: int) -> Wire:
    """Run a call under the profiler and count its collectives, those inside other operators too."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    called = sorted((e for e in events if e.get("cat") == "cpu_op"), key=lambda e: e["ts"])
    found = [e for e in called if e["name"] in SENT]
    sent = 0.0
    for event in found:
        for shape, dtype in tensors_of(event, called, ranks):
            sent += math.prod(shape) * ELEMENT_BYTES[dtype] * SENT[event["name"]](ranks)
    return Wire(dict(Counter(event["name"] for event in found)), sent)


def tensors_of(
    event: dict[str, Any], called: list[dict[str, Any]], ranks: int
) -> list[tuple[list[int], str]]:
    """Shape and type of what a rank gives a collective.

    The profiler does not tell the types in a list of tensors: they are those of the gathered
    results that are waited for next.
    """
    shapes, dtype = event["args"]["Input Dims"][0], event["args"]["Input type"][0]
    if not isinstance(shapes[0], list):
        return [(shapes, dtype)]
    later = [e for e in called if e["name"] == WAIT and e["ts"] > event["ts"]]
    found = []
    for shape in shapes:
        whole = [shape[0] * ranks, *shape[1:]]
        wait = next(e for e in later if e["args"]["Input Dims"][0] == whole)
        found.append((shape, wait["args"]["Input type"][0]))
    return found


def written(call: Callable[[], Any]) -> int:
    """Run a call and count the bytes that this process gave to write calls, sockets included.

    gloo writes to its sockets with `writev`; a collective ends on a rank when it has written all.
    Linux counts such bytes for each process in `/proc/self/io`.
    """
    before = written_so_far()
    call()
    return written_so_far() - before


def written_so_far() -> int:
    """Bytes that this process has given to write calls since it started."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["wchar"])
