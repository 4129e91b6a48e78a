"""`doctor`: what is installed, which optimizations can run on an NPU here, and what to install.

Exit status 0 where every optimization can run on an NPU here, torch and torch_npu belong together
and the package's entry points are found, 1 where not; with `--no-npu` 0 as well where no NPU is
meant to be here and what is installed is sound.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from ascend_passes.cli.arguments import add_json
from ascend_passes.cli.environment import Environment, examine
from ascend_passes.cli.output import console, print_json, print_table

EXAMPLES = (
    "ascend-passes doctor",
    "ascend-passes doctor --no-npu --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `doctor`."""
    add_json(parser)
    parser.add_argument(
        "--no-npu", action="store_true", help="succeed without an NPU, for CI on other machines"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 where all is well, 1 where something is missing."""
    findings = examine()
    if arguments.json:
        print_json(findings.to_dict())
    else:
        show(console(), findings)
    excused = arguments.no_npu and findings.device != "npu" and findings.sound
    return 0 if findings.healthy or excused else 1


def show(out: Console, findings: Environment) -> None:
    """The findings for a person."""
    versions = Table("package", "version", box=None)
    for name, version in findings.versions.items():
        versions.add_row(name, version or "not found")
    out.print(versions)
    out.print(f"\ndevice: {findings.device}" + (f", {findings.soc}" if findings.soc else ""))
    out.print(f"pair of versions that the tests run with: {findings.pair or 'none'}")
    show_systems(out, findings)
    present = len(findings.operators) - len(findings.missing_operators)
    out.print(f"\noperators in torch_npu here: {present} of {len(findings.operators)}")
    if findings.missing_operators and findings.device == "npu":
        out.print(f"missing operators: {', '.join(findings.missing_operators)}")
    for name, found in findings.entry_points.items():
        out.print(f"entry point {name}: {'found' if found else 'not found'}")
    for number, sentence in enumerate(findings.advice, 1):
        out.print(f"{number}. {sentence}", markup=False)
    out.print(f"next: {next_step(findings)}", markup=False)


def show_systems(out: Console, findings: Environment) -> None:
    """The eight optimizations; in one line where all have one reason."""
    reasons = {system.reason for system in findings.systems}
    if len(reasons) == 1:
        share = "all" if findings.systems[0].possible else "none"
        names = ", ".join(system.name for system in findings.systems)
        out.print(f"optimizations on an NPU here: {share} of {names}: {reasons.pop()}")
        return
    possible = Table("optimization", "on an NPU here", "why", box=None)
    for system in findings.systems:
        possible.add_row(system.name, "yes" if system.possible else "no", system.reason)
    print_table(out, possible)


def next_step(findings: Environment) -> str:
    """What to do now."""
    if findings.healthy:
        return "`ascend-passes tune` measures this machine, `ascend-passes explain DIR` a model"
    if not findings.sound:
        return "do what is said above, from the top, then `ascend-passes doctor` again"
    if findings.device == "npu":
        return "what is said above; what is not possible stays as the model wrote it"
    return (
        f"`ascend-passes demo` runs on this {findings.device} what an NPU would; "
        "for an NPU do what is said above"
    )
