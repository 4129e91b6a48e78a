"""`explain DIR`: compile prefill and decode step of a model, say what happened, run nothing."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ascend_passes.cli.arguments import SHAPES, add_model, command_options, read_options
from ascend_passes.cli.output import console, print_json, print_report, progress
from ascend_passes.cli.run import check_memory, random_prompt
from ascend_passes.report.merge import merged
from ascend_passes.report.value import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `explain`."""
    add_model(parser)


def run(arguments: argparse.Namespace) -> int:
    """0; errors as in `cli.run.run`."""
    options = read_options(arguments.option)
    command_options(options)
    found = explain_directory(arguments, options)
    if arguments.json:
        print_json({step: report.to_dict() for step, report in found.items()})
        return 0
    for step, report in found.items():
        (one,) = merged([report])
        print_report(console(), one, step)
    return 0


def explain_directory(arguments: argparse.Namespace, options: dict[str, Any]) -> dict[str, Report]:
    """The reports of prefill and of one decode step."""
    import ascend_passes
    from ascend_passes.models.generate import new_cache, step_inputs
    from ascend_passes.models.load import load_model

    with progress(arguments.directory.name) as stage, torch.no_grad():
        stage("load", 0, 3)
        model = load_model(arguments.directory, arguments.dtype, arguments.device)
        length = arguments.prompt_length
        check_memory(model, (arguments.batch, length), 1)
        cache = new_cache(model, arguments.batch, length + 1)
        prompt = random_prompt(model, (arguments.batch, length), arguments.seed)
        steps = {"prefill": (prompt, 0), "decode": (prompt[:, -1:], length)}
        reports = {}
        for done, (step, (token_ids, start)) in enumerate(steps.items(), start=1):
            stage(step, done, 3)
            inputs = step_inputs(model, token_ids, start, cache)
            reports[step] = ascend_passes.explain(
                model, options=options, dynamic=SHAPES[arguments.shapes], **inputs
            )
        return reports
