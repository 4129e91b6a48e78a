"""`demo`: four small Qwen3 models, saved and loaded like a user's, each compiled and compared."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.text import Text

from ascend_passes.cli.arguments import (
    add_html,
    add_json,
    add_options,
    add_seed,
    check_writable,
    command_options,
    read_options,
    save_text,
)
from ascend_passes.cli.output import console, print_json
from ascend_passes.cli.run import (
    compare_directory,
    print_comparison,
    print_summary,
    reports_by_name,
)
from ascend_passes.cli.waiting import waiting
from ascend_passes.report.page import page_of

EXAMPLES = (
    "ascend-passes demo",
    "ascend-passes demo --model qwen3-w8a8-static --full",
    "ascend-passes demo --html demo.html",
)
MODELS = (
    ("qwen3-float32", torch.float32, None),
    ("qwen3-bfloat16", torch.bfloat16, None),
    ("qwen3-w8a8-static", torch.bfloat16, "static"),
    ("qwen3-w8a8-dynamic", torch.bfloat16, "dynamic"),
)
"""Directory name, dtype of the activations, and how they are quantized."""
SHAPE = (1, 16)
TOKENS = 16
MORE = "more: `demo --full` for each layer, `demo --html FILE` for a page, `demo --json` for data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `demo`."""
    parser.add_argument(
        "--model",
        action="append",
        choices=[name for name, *_ in MODELS],
        help="only this one of the four; may be given again (default: all)",
    )
    parser.add_argument("--full", action="store_true", help="print the whole report of each graph")
    add_html(parser)
    add_seed(parser, "of weights and prompt (default: 0)")
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where every compiled model is right, 1 where one is not."""
    options = read_options(arguments.option)
    command_options(options)
    if arguments.html:
        check_writable(arguments.html)
    results = {}
    with tempfile.TemporaryDirectory(prefix="ascend-passes-demo-") as folder:
        for name, dtype, activations in MODELS:
            if arguments.model and name not in arguments.model:
                continue
            directory = Path(folder) / name
            waiting(f"making {name}")
            save_model(directory, dtype, activations, arguments.seed)
            result = compare_directory(
                directory, options, None, "cpu", SHAPE, TOKENS, arguments.seed, None
            )
            results[name] = result
            if not arguments.json:
                out = console()
                out.rule(Text(name, style="bold"), align="left")
                show = print_comparison if arguments.full else print_summary
                show(out, result)
    if arguments.html:
        save_text(arguments.html, page_of(reports_by_name(results), "demo"))
    if not arguments.json and not arguments.full:
        console().print(MORE)
    if arguments.json:
        print_json({name: result.to_dict() for name, result in results.items()})
    return 0 if all(result.passed for result in results.values()) else 1


def save_model(directory: Path, dtype: torch.dtype, activations: str | None, seed: int) -> None:
    """Write a seeded small Qwen3 checkpoint, W8A8 where `activations` says how."""
    from ascend_passes.models.build import small_model
    from ascend_passes.models.quantize import quantize_model

    model = small_model("qwen3", dtype, seed)
    if activations is None:
        model.save_pretrained(directory)
        return
    source = torch.Generator().manual_seed(seed)
    calibration = torch.randint(model.config.vocab_size, (4, 64), generator=source)
    compressor = quantize_model(model, activations, calibration)
    model.save_pretrained(directory)
    compressor.update_config(str(directory))
