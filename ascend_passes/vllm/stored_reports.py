"""Reports beside the code that vLLM stores, for starts that load it and run no pass.

The folder's name has the hash of our sources, rules and options, so that what it holds is of the
code that lies there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ascend_passes.report.schema import ReportError, from_dict
from ascend_passes.report.value import Report
from ascend_passes.vllm.summary import logger

FILE = "ascend_dense_reports.json"


def code_folder(backend: Any) -> Path | None:
    """Where vLLM stores a model's code; None where it stores none."""
    manager = backend.compiler_manager
    folder = getattr(manager, "cache_dir", "")
    if not folder or getattr(manager, "disable_cache", True):
        return None
    return Path(folder)


def keep_reports(folder: Path | None, reports: Mapping[str, Report]) -> None:
    """Keep the reports, without their graphs' text, beside those of other ranges.

    Args:
        reports: range of tokens, in words -> what the pieces come to together.
    """
    if folder is None or not reports:
        return
    kept = {
        where: replace(one, graph_before="", graph_after="")
        for where, one in {**earlier_reports(folder), **reports}.items()
    }
    text = json.dumps({where: report.to_dict() for where, report in kept.items()})
    part = folder / f"{FILE}.part"
    try:
        part.write_text(text)
        part.rename(folder / FILE)
    except OSError as error:
        logger.warning("ascend_dense: a later start will not say what fired: %s", error)


def earlier_reports(folder: Path | None) -> dict[str, Report]:
    """What an earlier start kept; nothing where there is no such file, or it is not whole."""
    if folder is None:
        return {}
    path = folder / FILE
    try:
        held = json.loads(path.read_text())
        return {where: from_dict(one, str(path)) for where, one in held.items()}
    except (OSError, ValueError, AttributeError, ReportError):
        return {}
