"""`new RULE`: write a rule file to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from ascend_passes.registry import pattern_folders
from ascend_passes.rule import RuleError

HELP = "write a rule file to start from"
TEMPLATE = '''\
"""Say in one sentence what becomes what.

Say here why, and name the source of each limit that `where` checks.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import silu

from ascend_passes import Rule, npu

Rows = Annotated[Tensor, "... H"]


def pattern(gate: Rows, up: Rows):
    """The operators as a model writes them; replace this example by yours."""
    return silu(gate) * up


def replacement(gate: Rows, up: Rows):
    """The operators that stand in for them."""
    return npu.npu_swiglu(torch.cat([gate, up], dim=-1), -1)


def where(H):
    """When the two are equal and the operator takes the inputs."""
    yield H % 2 == 0, f"H is {H}; name the limit and its source"


rule = Rule(pattern, replacement, where, examples=[{"H": 64}, {"H": 4096}])
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `new`."""
    parser.add_argument("rule", help="name of the rule: lower case, words joined by _")
    parser.add_argument(
        "--kind",
        choices=("recognize", "fuse"),
        default="fuse",
        help="recognize a spelling, or fuse operators (default)",
    )
    parser.add_argument("--folder", type=Path, help="a folder of your own instead (see rule_path)")


def run(arguments: argparse.Namespace) -> int:
    """0; raises RuleError for a name that cannot be one, or a file that exists."""
    path = new_rule(arguments.rule, arguments.folder or folder_of(arguments.kind))
    print(f"wrote {path}\nnext: edit it, then run `ascend-passes check {path.stem}`")
    return 0


def folder_of(kind: str) -> Path:
    """The package's folder for rules of a kind."""
    return next(folder for folder in pattern_folders() if folder.name == kind)


def new_rule(name: str, folder: Path) -> Path:
    """Write the template; errors as in `run`."""
    if not name.isidentifier() or not name.islower():
        raise RuleError(f"{name!r} cannot name a rule; write lower case words joined by _.")
    path = folder / f"{name}.py"
    if path.exists():
        raise RuleError(f"{path} exists; choose another name or edit it.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE)
    return path
