"""`check [RULE|FOLDER]`: run the checks that are made from a rule's declaration."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ascend_passes.commands.arguments import add_json, add_options, read_options
from ascend_passes.commands.output import console, print_json, progress
from ascend_passes.commands.rules import every_rule, rule_named
from ascend_passes.options import Options
from ascend_passes.registry import find
from ascend_passes.rule import Rule

HELP = "run the checks made from each rule, from one, or from those of a folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `check`."""
    parser.add_argument(
        "rule", nargs="?", help="name of a rule, or a folder of rules (default: all)"
    )
    parser.add_argument(
        "--bench", action="store_true", help="measure instead what each rule costs while compiling"
    )
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where nothing was found, 1 where a rule is wrong; RuleError as in `show`."""
    options = Options.read(read_options(arguments.option))
    chosen = choose(arguments.rule, options)
    if arguments.bench:
        return measure(chosen, arguments.json)
    from ascend_passes.verify import check  # slow to import; a wrong name is told at once

    findings = {}
    with progress("check") as stage:
        for done, rule in enumerate(chosen):
            stage(rule.name, done, len(chosen))
            findings[rule.name] = check(rule)
    wrong = sum(map(len, findings.values()))
    if arguments.json:
        print_json({name: [asdict(one) for one in found] for name, found in findings.items()})
        return 1 if wrong else 0
    out = console()
    for name, found in findings.items():
        out.print(f"{name}: {'FAILED' if found else 'passed'}", markup=False)
        for finding in found:
            out.print(f"    {finding}", markup=False)
    return 1 if wrong else 0


def measure(chosen: tuple[Rule, ...], as_json: bool) -> int:
    """Print the figures of each rule; 0, as a slow rule is no wrong one."""
    from ascend_passes.verify.bench import bench  # slow to import, as above

    figures = {}
    with progress("bench") as stage:
        for done, rule in enumerate(chosen):
            stage(rule.name, done, len(chosen))
            figures[rule.name] = bench(rule)
    if as_json:
        print_json({name: asdict(one) if one else None for name, one in figures.items()})
        return 0
    for name, one in figures.items():
        console().print(f"{name}: {one or 'fires at none of its dtypes'}", markup=False)
    return 0


def choose(name: str | None, options: Options) -> tuple[Rule, ...]:
    """The rules of a folder, the rule of a name, or all; errors as in `run`."""
    if name is None:
        return every_rule(options)
    if Path(name).is_dir():
        return find(Path(name))
    return (rule_named(name, options),)
