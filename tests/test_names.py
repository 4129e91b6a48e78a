"""A name means one thing: no two files define a function or a class of one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import ascend_passes

PACKAGE = Path(ascend_passes.__file__).parent
COMMANDS = {f"cli/{path.name}" for path in (PACKAGE / "cli").glob("*.py")}
OF_COMMANDS = {"run", "add_arguments"}
"""What each command has."""
OF_PYTHON = {"main", "__getattr__", "__dir__"}
"""What starts a process, and what Python looks up by its name."""


def defined() -> dict[str, set[str]]:
    """Name -> the files that define a function or a class of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name].add(path.relative_to(PACKAGE).as_posix())
    return found


def test_no_name_has_two_meanings():
    names = defined()
    assert all(names[name] <= COMMANDS for name in OF_COMMANDS)
    alone = names.keys() - OF_COMMANDS - OF_PYTHON
    assert not {name: sorted(names[name]) for name in alone if len(names[name]) > 1}
