"""`check [RULE|FOLDER]`: run the checks that are made from the declaration of a rule, or of a
recognition.

A folder is written with a `/`, as `./my_rules`: no name of a rule runs what lies in the current
folder.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ascend_passes.cli.arguments import (
    UsageError,
    add_json,
    add_options,
    command_options,
    read_options,
    time_limit,
)
from ascend_passes.cli.limit import LOAD_SECONDS, limited
from ascend_passes.cli.output import console, print_json, progress
from ascend_passes.cli.rules import Named, blamed, every_named, the_named
from ascend_passes.engine.registry import find
from ascend_passes.engine.rule import Rule, RuleError
from ascend_passes.options.value import Options

if TYPE_CHECKING:
    from ascend_passes.verify import Finding

EXAMPLES = (
    "ascend-passes check",
    "ascend-passes check swiglu",
    "ascend-passes check ./my_rules --limit 60",
)
RULE_SECONDS = 600
"""Of one rule; the slowest of ours takes a fiftieth on an idle core."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `check`."""
    parser.add_argument(
        "rule",
        nargs="?",
        help="name of a rule or recognition, or a folder, written with a / (default: all)",
    )
    parser.add_argument(
        "--bench", action="store_true", help="measure instead what each rule costs while compiling"
    )
    parser.add_argument(
        "--limit",
        type=time_limit,
        default=RULE_SECONDS,
        metavar="SECONDS",
        help=f"for each rule; one that does not end is an error (default: {RULE_SECONDS})",
    )
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where nothing was found, 1 where one is wrong; RuleError as in `show`."""
    options = command_options(read_options(arguments.option))
    chosen = chosen_names(arguments.rule, options)
    if arguments.bench:
        return measure_rules(benched(chosen), arguments.json, arguments.limit)
    findings = {}
    with progress("check") as stage:
        for done, one in enumerate(chosen):
            stage(one.name, done, len(chosen))
            with blamed(one, arguments.limit):
                findings[one.name] = found_wrong(one)
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


def found_wrong(one: Named) -> list[Finding]:
    """What the checks find in a rule or a recognition."""
    # slow to import; a wrong name is told at once
    from ascend_passes.verify import check
    from ascend_passes.verify.recognition import check_recognition

    return check(one) if isinstance(one, Rule) else check_recognition(one.name)


def benched(chosen: tuple[Named, ...]) -> tuple[Rule, ...]:
    """The rules among what was chosen; UsageError where there is none."""
    rules = tuple(one for one in chosen if isinstance(one, Rule))
    if not rules:
        raise UsageError(
            f"{chosen[0].name} is a recognition, and `--bench` measures rules alone; "
            "leave `--bench` away, or name a rule."
        )
    return rules


def measure_rules(chosen: tuple[Rule, ...], as_json: bool, limit: float) -> int:
    """Print the figures of each rule; 0, as a slow rule is no wrong one."""
    from ascend_passes.verify.bench import bench  # slow to import, as above

    figures = {}
    with progress("bench") as stage:
        for done, rule in enumerate(chosen):
            stage(rule.name, done, len(chosen))
            with blamed(rule, limit):
                figures[rule.name] = bench(rule)
    if as_json:
        print_json({name: asdict(one) if one else None for name, one in figures.items()})
        return 0
    for name, one in figures.items():
        console().print(f"{name}: {one or 'fires at none of its dtypes'}", markup=False)
    return 0


def chosen_names(name: str | None, options: Options) -> tuple[Named, ...]:
    """The rules of a folder, what has a name, or all; errors as in `run`."""
    if name is None:
        return every_named(options)
    if not name:
        raise UsageError("the name is empty; leave it away to check all rules.")
    if os.sep in name:
        with limited(LOAD_SECONDS, f"loading the rule files of {name}"):
            return find(Path(name))
    try:
        return (the_named(name, options),)
    except RuleError as error:
        if os.path.isdir(name):
            raise UsageError(f"{error} For the folder write {os.path.join('.', name)!r}.") from None
        raise
