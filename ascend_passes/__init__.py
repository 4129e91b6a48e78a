"""Graph-compiler passes for dense language models on Ascend NPUs.

`torch.compile(model, backend="ascend_dense")` needs no import; the names below serve those who want
more.
"""

from ascend_passes import npu
from ascend_passes.backend import ascend_dense, explain, optimize, reports, reset
from ascend_passes.compiled_graph import refresh
from ascend_passes.decode import Decoder, decode_loop, waits_for_host
from ascend_passes.options import OptionError, Options
from ascend_passes.report import Report
from ascend_passes.rule import Rule

__all__ = [
    "Decoder",
    "OptionError",
    "Options",
    "Report",
    "Rule",
    "ascend_dense",
    "decode_loop",
    "explain",
    "npu",
    "optimize",
    "refresh",
    "reports",
    "reset",
    "waits_for_host",
]
