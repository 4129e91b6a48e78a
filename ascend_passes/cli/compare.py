"""`compare A.json B.json`: what is gained and lost from one set of reports to another.

`explain DIR --json > A.json` writes one. Exit status 0 where nothing is lost, 1 where something is.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ascend_passes.cli.arguments import add_json, path_name
from ascend_passes.cli.output import console, print_json, print_lines
from ascend_passes.report.changes import GAINED, LOST, changes_between
from ascend_passes.report.schema import read_reports
from ascend_passes.report.text import TextLine

EXAMPLES = ("ascend-passes compare yesterday.json today.json",)
TONE = {GAINED: "good", LOST: "bad"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare`."""
    parser.add_argument("old", type=path_name, help="reports as they were")
    parser.add_argument("new", type=path_name, help="reports as they are")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where nothing is lost, 1 where something is; raises ReportError for what is no report."""
    found = changes_between(read_reports(arguments.old), read_reports(arguments.new))
    lost = sum(one.kind == LOST for one in found)
    if arguments.json:
        print_json({"lost": lost, "changes": [asdict(one) for one in found]})
        return 1 if lost else 0
    out = console()
    for one in found:
        print_lines(out, [TextLine(one.kind, f"{one.graph}: {one.text}", TONE.get(one.kind, ""))])
    gained = sum(one.kind == GAINED for one in found)
    print_lines(out, [TextLine("in all", f"{gained} gained, {lost} lost")])
    return 1 if lost else 0
