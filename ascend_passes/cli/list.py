"""`list`: every recognition and every rule with its sentence."""

from __future__ import annotations

import argparse

from rich.table import Table

from ascend_passes.cli.arguments import add_json, add_options, command_options, read_options
from ascend_passes.cli.output import console, print_json, print_table
from ascend_passes.cli.rules import Named, every_named
from ascend_passes.engine.registry import is_on
from ascend_passes.engine.rule import Rule
from ascend_passes.meaning.recognize import is_wanted
from ascend_passes.options.value import Options

EXAMPLES = (
    "ascend-passes list",
    "ascend-passes list --json --option rule_path=./my_rules",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `list`."""
    add_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0; raises RuleError for a rule file that does not load."""
    options = command_options(read_options(arguments.option))
    rows = [row_of(one, options) for one in every_named(options)]
    if arguments.json:
        print_json(rows)
        return 0
    table = Table(box=None)
    for column in ("rule", "kind", "on", "what it does"):
        table.add_column(column, no_wrap=column != "what it does")
    for row in rows:
        name, kind, on, summary = row.values()
        table.add_row(str(name), str(kind), "yes" if on else "no", str(summary))
    print_table(console(), table)
    return 0


def row_of(one: Named, options: Options) -> dict[str, str | bool]:
    """Name, kind, whether it is on under these options, and its sentence."""
    if isinstance(one, Rule):
        kind, on, summary = one.kind, is_on(one, options), one.summary
    else:
        kind, summary = "recognize", one.recognition.summary
        on = is_wanted(one.family, one.name, options)
    return {"name": one.name, "kind": kind, "on": on, "summary": summary}
