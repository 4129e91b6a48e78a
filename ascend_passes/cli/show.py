"""`show RULE`: what a rule says, when it holds, and a graph before and after it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.syntax import Syntax
from rich.text import Text

from ascend_passes.cli.arguments import add_json, add_options, command_options, read_options
from ascend_passes.cli.limit import LOAD_SECONDS
from ascend_passes.cli.output import console, print_json
from ascend_passes.cli.rules import blamed, rule_named
from ascend_passes.verify.rule_page import RulePage, page

EXAMPLES = (
    "ascend-passes show add_rms_norm_quant",
    "ascend-passes show swiglu --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `show`."""
    parser.add_argument("rule", help="name of the rule, as `list` prints it")
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0; raises RuleError where there is no such rule."""
    options = command_options(read_options(arguments.option))
    rule = rule_named(arguments.rule, options)
    with blamed(rule, LOAD_SECONDS):
        found = page(rule)
    if arguments.json:
        print_json(asdict(found))
    else:
        print_page(found)
    return 0


def print_page(found: RulePage) -> None:
    """The page on a terminal."""
    out = console()
    out.print(Text.assemble((found.name, "bold"), f" ({found.kind}, {found.source})"))
    out.print(found.documentation, markup=False)
    for title, code in (
        ("pattern", "\n\n".join(found.patterns)),
        ("replacement", found.replacement),
        ("helpers", "\n\n".join(found.helpers)),
        ("spellings", "\n".join(found.spellings)),
        ("graph before", found.graph_before),
        ("graph after", found.graph_after),
    ):
        if not code:
            continue
        out.rule(title, align="left")
        out.print(Syntax(code, "python", theme="ansi_dark", background_color="default"))
    out.rule("refused where", align="left")
    for reason in found.conditions or ("never: the two sides are always equal",):
        out.print(f"* {reason}", markup=False)
