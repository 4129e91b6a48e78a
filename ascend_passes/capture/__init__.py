"""Whole steps as device graphs: NPU graphs, CUDA graphs, and a CPU recorder of their rules."""

from ascend_passes.capture.device import Device, device_for
from ascend_passes.capture.fault import CaptureError, Fault
from ascend_passes.capture.layout import Layout
from ascend_passes.capture.log import Counters, Log
from ascend_passes.capture.runner import Runner
from ascend_passes.capture.wrapping import prepare, wrap

__all__ = [
    "CaptureError",
    "Counters",
    "Device",
    "Fault",
    "Layout",
    "Log",
    "Runner",
    "device_for",
    "prepare",
    "wrap",
]
