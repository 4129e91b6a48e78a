"""`run DIR`: compile a model, generate with it, compare with eager and float64."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ascend_passes.cli.arguments import (
    MOST_TOKENS,
    SHAPES,
    UsageError,
    add_html,
    add_model,
    check_writable,
    command_options,
    read_options,
    save_text,
    whole_number,
)
from ascend_passes.cli.output import console, print_json, print_lines, print_report, progress
from ascend_passes.report.merge import merged
from ascend_passes.report.page import page_of
from ascend_passes.report.text import TextLine, graph_name, summary_lines

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel

    from ascend_passes.models.compare import Comparison
    from ascend_passes.report.value import Report

EXAMPLES = (
    "ascend-passes run ./Qwen3-0.6B",
    "ascend-passes run ./Qwen3-32B --tokens 64 --option cudagraph_mode=FULL_DECODE_ONLY",
    "ascend-passes run ./Qwen3-0.6B --json > result.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `run`."""
    add_model(parser)
    parser.add_argument(
        "--tokens", type=whole_number(MOST_TOKENS), default=16, help="to generate (default: 16)"
    )
    add_html(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where the compiled model is right, 1 where it is not.

    Raises:
        ModelError: the directory holds no model that is supported.
        OptionError: an option that does not exist or has a wrong value.
    """
    options = read_options(arguments.option)
    command_options(options)
    if arguments.html:
        check_writable(arguments.html)
    result = compare_directory(
        arguments.directory,
        options,
        arguments.dtype,
        arguments.device,
        (arguments.batch, arguments.prompt_length),
        arguments.tokens,
        arguments.seed,
        SHAPES[arguments.shapes],
    )
    if arguments.json:
        print_json(result.to_dict())
    else:
        print_comparison(console(), result)
    if arguments.html:
        title = arguments.directory.resolve().name
        save_text(arguments.html, page_of(reports_by_name({"": result}), title))
    return 0 if result.passed else 1


def reports_by_name(results: Mapping[str, Comparison]) -> dict[str, Report]:
    """The reports of some models, each by its model's name and its number."""
    return {
        f"{name} graph {number}".strip(): report
        for name, result in results.items()
        for number, report in enumerate(result.reports, 1)
    }


def compare_directory(
    directory: Path,
    options: Mapping[str, Any],
    dtype: str | None,
    device: str,
    shape: tuple[int, int],
    count: int,
    seed: int,
    dynamic: bool | None,
) -> Comparison:
    """Load, compile and compare; `shape` is batch and prompt length, errors as in `run`."""
    from ascend_passes.models.compare import compare
    from ascend_passes.models.exact import exact_forward
    from ascend_passes.models.load import load_model, load_original

    with progress(directory.name) as stage:
        stage("load", 0, 1)
        model = load_model(directory, dtype, device)
        check_memory(model, shape, count)
        torch._dynamo.reset()
        forward = torch.compile(
            model, backend="ascend_dense", options=dict(options), dynamic=dynamic
        )
        exact = exact_forward(model, options)
        prompt = random_prompt(model, shape, seed)

        def original() -> PreTrainedModel:
            return load_original(directory, dtype).to(device)

        return compare(model, forward, exact, prompt, count, stage, original)


def check_memory(model: PreTrainedModel, shape: tuple[int, int], count: int) -> None:
    """Raise UsageError where the logits in float64 and the mask would not fit into memory."""
    (batch, length), config = shape, model.config.get_text_config()
    row = config.vocab_size * torch.float64.itemsize + length + count
    needed, there = batch * (length + count) * row, memory_bytes()
    if needed > there:
        raise UsageError(
            f"{batch} sequences of {length + count} tokens need {needed / 2**30:.0f} GiB for their "
            f"logits and masks, and this machine has {there / 2**30:.0f} GiB; take fewer by "
            "--batch, --prompt-length or --tokens."
        )


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def random_prompt(model: PreTrainedModel, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Token ids `[batch, tokens]` from the model's whole vocabulary."""
    source = torch.Generator().manual_seed(seed)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(vocabulary, shape, generator=source).to(model.device)


def print_comparison(out: Console, result: Comparison) -> None:
    """The reports of all graphs, then the agreement."""
    for one in merged(result.reports):
        print_report(out, one, f"{graph_name(one)} of {len(result.reports)}")
    out.rule("agreement", align="left")
    for line in agreement(result):
        out.print(line, markup=False)


def print_summary(out: Console, result: Comparison) -> None:
    """All of it on a few lines."""
    print_lines(out, summary_lines(merged(result.reports)))
    verdict, tone = ("passed", "good") if result.passed else ("FAILED", "bad")
    print_lines(out, [TextLine(verdict, brief_agreement(result), tone)])


def brief_agreement(result: Comparison) -> str:
    """Tokens and logits in one sentence."""
    if result.not_finite:
        return broken(result)
    compiled, eager = map(result.size, (result.compiled, result.eager))
    return (
        f"{result.equal_tokens} of {result.tokens} tokens equal eager's; logits within "
        f"{compiled:.3g} of float64 (eager {eager:.3g}, limit "
        f"{result.limit:g}), the formula within {result.exact.relative:.3g}; "
        f"{result.compile_seconds:.1f} s"
    )


def broken(result: Comparison) -> str:
    """Whose logits are no numbers, and whether that is the model's own doing."""
    names = ", ".join(result.not_finite)
    if result.not_finite == ("compiled",):
        return "logits hold NaN or infinity: compiled alone, the model itself computes numbers"
    return f"logits hold NaN or infinity: {names}; so does the model itself, check its weights"


def agreement(result: Comparison) -> list[str]:
    """Sentences about tokens and logits."""
    if result.not_finite:
        return [broken(result), "FAILED"]
    kind = f"W8A8 in {result.dtype}" if result.quantized else result.dtype
    verdict = "no worse than eager" if result.no_worse else "worse than eager"
    compiled, eager = map(result.size, (result.compiled, result.eager))
    formula = "the same formula" if result.same_formula else "ANOTHER FORMULA"
    lines = [
        f"{kind}: {result.equal_tokens} of {result.tokens} greedy tokens equal eager's",
        "teacher-forced logits against float64: relative error "
        f"{compiled:.3g} compiled, {eager:.3g} eager ({verdict}); "
        f"largest {result.compiled.largest:.3g} compiled, {result.eager.largest:.3g} eager",
        f"rewritten graphs in float64: relative error {result.exact.relative:.3g} ({formula})",
        f"limit {result.limit:g}; compiled and generated in {result.compile_seconds:.1f} s",
        "passed" if result.passed else "FAILED",
    ]
    return lines
