"""What a device graph cannot hold, as a value and as an error."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OUR_FOLDER = __file__.rsplit("/", 2)[0] + "/"
"""The package; its tests and a user's model lie elsewhere."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "host_sync": "the host waits for a value, which a device cannot give during a capture",
        "host_copy": "the result is copied to the host, which waits for the device",
        "graph_break": "the model's graph ends here and Python goes on, so a step is not one graph",
        "print": "printing a tensor waits for its values",
        "dynamic_shape": "the shape of the result depends on data; a graph replays fixed shapes",
        "random": "random numbers need generator state that the graph does not hold",
        "host_input": "a tensor on the host is read; its address means nothing to the device",
        "host_constant": "a constant is made on the host and copied to the device inside the step",
        "undeclared_memory": "memory is neither an input nor made inside the graph, "
        "so nothing keeps it alive or in place",
        "resized": "an input gets new memory, and a graph replays fixed addresses",
        "cold_collective": "the group communicates for the first time inside the capture, "
        "which allocates and waits; run the step once before",
        "unjoined_stream": "a side stream is not joined when the capture ends",
        "nested_capture": "a capture starts while another one runs on this device",
        "captured_twice": "the graph holds a capture already",
        "not_captured": "the graph holds no capture that could be replayed",
        "synchronize": "the host waits for the device inside the capture",
        "moved_input": "an input is at another address than at the capture",
        "freed_input": "the memory of an input was freed after the capture",
        "no_update": "no operator in the graph has a host-side parameter of this name",
        "device": "the device refused the capture",
    }
)
"""Kind of fault -> the sentence that a person reads."""


@dataclass(frozen=True)
class Fault:
    """One thing that a device graph cannot hold."""

    kind: str
    """A key of `REASONS`."""
    operator: str = ""
    """The operator or Python function that does it."""
    line: str = ""
    """The line of the model that asks for it."""
    detail: str = ""

    @property
    def reason(self) -> str:
        """The sentence without the place."""
        return f"{REASONS[self.kind]} ({self.detail})" if self.detail else REASONS[self.kind]

    def __str__(self) -> str:
        subject = self.operator or "capture"
        return f"{subject}: {self.reason}" + (f", at {self.line}" if self.line else "")


class CaptureError(RuntimeError):
    """A capture or a replay that a device graph cannot do; `fault` says what and where."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def fault_error(kind: str, operator: str = "", detail: str = "") -> CaptureError:
    """The error for a fault that happens now; its line is the innermost one of the user's code."""
    return CaptureError(Fault(kind, operator, user_line(), detail))


def user_line() -> str:
    """`file.py:62 in forward: source text`, innermost frame outside torch and this package."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        outside = "/torch/" not in file and not file.startswith((OUR_FOLDER, "<"))
        if outside and "/concurrent/" not in file:
            source = linecache.getline(file, frame.f_lineno).strip()
            name = f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno} in {frame.f_code.co_name}"
            return f"{name}: {source}" if source else name
        frame = frame.f_back  # type: ignore[assignment]
    return ""
