"""`explain DIR`: compile prefill and decode step of a model, say what happened, run nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from ascend_passes.cli.arguments import (
    SHAPES,
    UsageError,
    add_html,
    add_model,
    check_writable,
    command_options,
    path_name,
    read_options,
    save_text,
    whole_number,
)
from ascend_passes.cli.output import console, print_json, print_report, progress
from ascend_passes.cli.run import check_memory, random_prompt
from ascend_passes.report.expected import expected_counts, expected_text
from ascend_passes.report.layers import layer_number, layers_of
from ascend_passes.report.listing import GONE, NEW, diff_lines, kernel_lines_of, layer_lines
from ascend_passes.report.merge import merged
from ascend_passes.report.page import page_of
from ascend_passes.report.value import Report

EXAMPLES = (
    "ascend-passes explain ./Qwen3-32B",
    "ascend-passes explain ./Qwen3-32B --layer 0",
    "ascend-passes explain ./Qwen3-32B --html page.html --write-expect counts",
    "ascend-passes explain ./Qwen3-32B --json > today.json",
)
MOST_LAYERS = 100_000
STYLES = {GONE: "red", NEW: "green"}
"""First character of a line of `--diff` -> its colour."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `explain`."""
    add_model(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--diff", action="store_true", help="kernels that are gone and new")
    kinds.add_argument("--kernels", action="store_true", help="every kernel that runs")
    kinds.add_argument(
        "--layer",
        type=whole_number(MOST_LAYERS, lowest=0),
        metavar="N",
        help="the kernels of one layer, before and after, with the model's lines",
    )
    add_html(parser)
    parser.add_argument(
        "--write-expect",
        type=path_name,
        metavar="FILE",
        help="write the counts of today as a value of option expect",
    )


def run(arguments: argparse.Namespace) -> int:
    """0; errors as in `cli.run.run`, and UsageError for a file that cannot be written."""
    options = read_options(arguments.option)
    command_options(options)
    check_together(arguments)
    for path in filter(None, (arguments.html, arguments.write_expect)):
        check_writable(path)
    found = explain_directory(arguments, options)
    if arguments.layer is not None:
        require_layer(found, arguments.layer)
    if arguments.json:
        print_json({step: report.to_dict() for step, report in found.items()})
    else:
        print_explained(console(), found, arguments)
    for line in save_files(found, arguments):
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def check_together(arguments: argparse.Namespace) -> None:
    """Raise UsageError for arguments of which one would be lost."""
    if arguments.html and arguments.html == arguments.write_expect:
        raise UsageError("--html and --write-expect name one file; name two.")
    if arguments.json and (arguments.diff or arguments.kernels or arguments.layer is not None):
        raise UsageError(
            "--json prints all kernels; leave --diff, --kernels and --layer away, or --json."
        )


def print_explained(
    out: Console, found: Mapping[str, Report], arguments: argparse.Namespace
) -> None:
    """The reports, or the lists that are asked for."""
    names = list(found)
    for one in merged(found.values()):
        title = ", ".join(names[number - 1] for number in one.numbers)
        lines = listed(one.report, arguments)
        if lines is None:
            print_report(out, one, title)
            continue
        out.rule(Text(title), align="left")
        for line in lines:
            out.print(Text(line, style=STYLES.get(line[:1], "")))


def listed(report: Report, arguments: argparse.Namespace) -> Iterable[str] | None:
    """The list that is asked for; None where it is the report."""
    if arguments.diff:
        return diff_lines(report)
    if arguments.kernels:
        return kernel_lines_of(report)
    if arguments.layer is None:
        return None
    chosen = (one for one in layers_of(report) if one.path)
    wanted = [one for one in chosen if layer_number(one.path) == arguments.layer]
    return [line for layer in wanted for line in layer_lines(report, layer)]


def require_layer(found: Mapping[str, Report], number: int) -> None:
    """Raise UsageError where no graph has a layer of this number."""
    layers = (layer for report in found.values() for layer in layers_of(report) if layer.path)
    numbers = sorted({layer_number(layer.path) for layer in layers})
    if number not in numbers:
        there = f"0 to {numbers[-1]}" if numbers else "none"
        raise UsageError(f"--layer {number}: the model's layers are {there}.")


def save_files(found: Mapping[str, Report], arguments: argparse.Namespace) -> list[str]:
    """Write the files that are asked for; what to do with them."""
    lines = []
    if arguments.html:
        save_text(arguments.html, page_of(found, arguments.directory.resolve().name))
        lines.append(f"wrote {arguments.html}; open it in a browser")
    if arguments.write_expect:
        text = expected_text(expected_counts(list(found.values())))
        if not text:
            raise UsageError("nothing fires in every graph, so `expect` has nothing to ask for.")
        save_text(arguments.write_expect, text + "\n")
        use = f'--option "expect=$(cat {arguments.write_expect})"'
        lines.append(f"wrote {arguments.write_expect}; next: {use}")
    return lines


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
