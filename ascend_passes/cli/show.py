"""`show RULE`: what a rule or a recognition says, when it holds, and a graph before and after."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.syntax import Syntax
from rich.text import Text

from ascend_passes.cli.arguments import add_json, add_options, command_options, read_options
from ascend_passes.cli.limit import LOAD_SECONDS
from ascend_passes.cli.output import console, print_json
from ascend_passes.cli.rules import blamed, the_named
from ascend_passes.engine.rule import Rule
from ascend_passes.verify.recognition import RecognitionPage, recognition_page
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
    one = the_named(arguments.rule, options)
    with blamed(one, LOAD_SECONDS):
        found = page(one) if isinstance(one, Rule) else recognition_page(one.name)
    if arguments.json:
        print_json(asdict(found))
    elif isinstance(found, RulePage):
        print_page(found)
    else:
        print_recognition(found)
    return 0


def print_recognition(found: RecognitionPage) -> None:
    """The page of a recognition on a terminal."""
    out = console()
    out.print(Text.assemble((found.name, "bold"), f" ({found.kind}, {found.source})"))
    out.print(found.summary, markup=False)
    out.print(f"\n{found.documentation}", markup=False)
    print_code("graph before, of one spelling", found.graph_before)
    print_code("graph after", found.graph_after)
    out.rule("refused where a limit of the operator is broken", align="left")
    for limit in found.limits:
        out.print(f"* {limit}", markup=False)


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
        print_code(title, code)
    out.rule("refused where", align="left")
    for reason in found.conditions or ("never: the two sides are always equal",):
        out.print(f"* {reason}", markup=False)


def print_code(title: str, code: str) -> None:
    """A section with code in it, if there is any."""
    if not code:
        return
    console().rule(title, align="left")
    console().print(Syntax(code, "python", theme="ansi_dark", background_color="default"))
