"""`new RULE`: write a rule file to start from."""

from __future__ import annotations

import argparse
import builtins
import keyword
import os
import re
import shlex
import sys
from pathlib import Path

from ascend_passes.cli.arguments import path_name
from ascend_passes.cli.waiting import settled
from ascend_passes.compile import pass_names
from ascend_passes.engine.registry import pattern_folders
from ascend_passes.engine.rule import RuleError
from ascend_passes.meaning.recognize import recognitions
from ascend_passes.options.types import shown

EXAMPLES = (
    "ascend-passes new my_rule --folder ./my_rules",
    "ascend-passes new my_spelling --kind recognize --folder ./my_rules",
)
NAME = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
MOST_LETTERS = 80
PACKAGES = ("ascend_passes", "npu", "numpy", "rich", "sympy", "torch", "torch_npu", "transformers")
"""What rule files import: a file of that name beside them would hide it."""
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


rule = Rule(
    pattern,
    replacement,
    where,
    examples=[{"H": 64}, {"H": 4096}],
    tolerance=6,  # units in the last place: that of npu_swiglu in float32, by docs/accuracy.md
)
'''
RECOGNIZES = ("    where,\n", '    where,\n    kind="recognize",\n')
"""What the template says, and what it says for a rule that recognizes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `new`."""
    parser.add_argument("rule", help="name of the rule: lower case, words joined by _")
    parser.add_argument(
        "--kind",
        choices=("recognize", "fuse"),
        default="fuse",
        help="fuse operators (default), or recognize a spelling, which needs --folder",
    )
    parser.add_argument(
        "--folder", type=path_name, help="a folder of your own instead (see rule_path)"
    )


def run(arguments: argparse.Namespace) -> int:
    """0; raises RuleError for a name that cannot be one, a file that exists, or no folder where
    one is needed."""
    folder = arguments.folder or folder_of(arguments.kind)
    path = new_rule(arguments.rule, folder, arguments.kind)
    words = ["ascend-passes", "check", path.stem]
    if arguments.folder:
        words += ["--option", f"rule_path={arguments.folder}"]
    settled()
    print(f"wrote {path}\nnext: edit it, then run `{shlex.join(words)}`")
    return 0


def folder_of(kind: str) -> Path:
    """The package's folder for rules of a kind; RuleError where it has none."""
    for folder in pattern_folders():
        if folder.name == kind:
            return folder
    raise RuleError(
        f"the package recognizes by meaning and has no folder for rules of kind {kind}; "
        "write yours into one of your own with --folder."
    )


def new_rule(name: str, folder: Path, kind: str = "fuse") -> Path:
    """Write the template; errors as in `run`."""
    refuse_name(name)
    if os.pathsep in str(folder):
        raise RuleError(f"{folder} has a {os.pathsep!r}, which parts folders in `rule_path`.")
    path = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.replace(*RECOGNIZES) if kind == "recognize" else TEMPLATE)
    except FileExistsError as error:
        raise RuleError(f"{error.filename} exists; choose another name or edit it.") from None
    except OSError as error:
        raise RuleError(f"{path} cannot be written ({error.strerror}); choose a folder.") from None
    return path


def refuse_name(name: str) -> None:
    """Raise RuleError for a name that no rule can have, or that means something else."""
    if not NAME.fullmatch(name) or len(name) > MOST_LETTERS:
        wanted = f"lower case words joined by _, up to {MOST_LETTERS} letters"
        raise RuleError(f"{shown(name)} cannot name a rule; write {wanted}.")

    taken = {
        "a word of Python": keyword.iskeyword(name) or keyword.issoftkeyword(name),
        "a name of Python's": hasattr(builtins, name) or name in sys.stdlib_module_names,
        "a package": name in PACKAGES,
        "a pass": name in pass_names.switchable(),
        "a recognition": name in recognitions(),
    }
    for what, is_taken in taken.items():
        if is_taken:
            raise RuleError(f"{name!r} is {what} already; choose another name.")
    for folder in pattern_folders():
        if (folder / f"{name}.py").exists():
            raise RuleError(f"{folder / name}.py exists; choose another name or edit it.")
