"""Which of vLLM's models is being compiled, and what its pieces add up to.

In mode VLLM_COMPILE an object of vLLM's compiles all pieces of one model, for every range of
tokens, in one call; a draft model has such an object of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ascend_passes.backend import keep_quietly
from ascend_passes.compile.pipeline import check_expectations
from ascend_passes.ir.graph import Context
from ascend_passes.options.value import Options
from ascend_passes.report.value import Report
from ascend_passes.vllm import stored_reports, summary

MAIN = "backbone"
DRAFTS = ("draft_model", "eagle_head", "extract_hidden_states")
"""vLLM's tags of models that stand beside the main one."""


@dataclass(frozen=True)
class Model:
    """A model whose pieces are being compiled."""

    name: str
    reports: dict[str, list[Report]] = field(default_factory=dict)
    """Range of tokens, in words -> the pieces' reports."""


_current: ContextVar[Model | None] = ContextVar("model", default=None)


def present() -> Model | None:
    """The model whose pieces are being compiled; None where a graph is a whole model."""
    return _current.get()


def present_tag() -> str:
    """vLLM's tag of the model that is being built."""
    from vllm.compilation.backends import model_tag

    return str(model_tag)


def model_name(vllm_config: Any, tag: str) -> str:
    """The architecture, and the tag of a model that is not the main one, such as a draft."""
    name = str(vllm_config.model_config.architecture)
    return name if tag in (MAIN, "") else f"{name} ({tag})"


def scoped(options: Options, tag: str) -> Options:
    """The options for one model: what `expect` says is said of the main model alone."""
    return dataclasses.replace(options, expect={}) if tag in DRAFTS else options


def compile_pieces(
    original: Callable[..., Any], backend: Any, options: Options, *args: Any, **kwargs: Any
) -> Any:
    """Let vLLM compile all pieces of a model; log and check what they come to together.

    Raises:
        ExpectationError: fewer fusions in all pieces together than the options expect.
    """
    options = scoped(options, backend.prefix)
    model = Model(model_name(backend.vllm_config, backend.prefix))
    token = _current.set(model)
    try:
        compiled = original(backend, *args, **kwargs)
    finally:
        _current.reset(token)
    finish(model, backend, options)
    return compiled


def finish(model: Model, backend: Any, options: Options) -> None:
    """Log and check what the pieces of a model come to; of ranges whose code vLLM had stored, what
    they came to when it was made.

    Raises:
        ExpectationError: as in `compile_pieces`.
    """
    pieces = sum(not item.is_splitting_graph for item in backend.piecewise_graphs)
    totals = {where: sum(reports, Report()) for where, reports in model.reports.items()}
    # Inductor does not show a piece again that it has in its cache.
    whole = {where: totals[where] for where, seen in model.reports.items() if len(seen) == pieces}
    folder = stored_reports.code_folder(backend)
    stored = stored_reports.earlier_reports(folder)
    earlier = {where: one for where, one in stored.items() if where not in totals}
    stored_reports.keep_reports(folder, whole)
    for where, total in totals.items():
        words = extent(len(model.reports[where]), pieces)
        summary.log(total, f"{model.name}{where}{words}", options.explain)
    for where, total in earlier.items():
        keep_quietly(total)
        summary.log(total, f"{model.name}{where}, stored by an earlier start", options.explain)
    for total in (*whole.values(), *earlier.values()):
        check_expectations(total, Context(options))


def extent(seen: int, pieces: int) -> str:
    """How many pieces a line is about, where the model has more than one."""
    if seen != pieces:
        return f", {seen} of {pieces} pieces, the others from a cache"
    return f", {pieces} pieces" if pieces > 1 else ""
