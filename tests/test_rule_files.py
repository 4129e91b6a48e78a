"""Rule files say what is theirs: what several need stands in one place."""

from __future__ import annotations

import re

from ascend_passes.engine.registry import pattern_folders
from ascend_passes.verify.checks import MOST_LINES

MOST_SHARED = 0.2
"""Of a file's lines those that may stand in another one as well."""
FRAME = ("rule = Rule(", "pattern,", "replacement,", "where,")
"""Lines that any rule has."""
FILES = {
    path: [line.strip() for line in path.read_text().splitlines() if line.strip()]
    for folder in pattern_folders()
    for path in folder.glob("[!_]*.py")
}


def says_something(line):
    """Whether a line is neither an import, nor brackets alone, nor a part of the frame."""
    framed = line in FRAME or line.startswith(("import ", "from "))
    return not framed and re.search(r"\w", line) is not None


def shared(path):
    """The lines of a rule file that stand in another one."""
    others = {line for other, lines in FILES.items() if other != path for line in lines}
    return [line for line in FILES[path] if line in others and says_something(line)]


def test_little_of_a_rule_file_stands_in_another():
    assert len(FILES) > 10
    much = {path.name: shared(path) for path in FILES}
    wrong = {n.name: much[n.name] for n in FILES if len(much[n.name]) > MOST_SHARED * len(FILES[n])}
    assert not wrong, wrong


def test_helpers_are_short_too():
    helpers = [path for folder in pattern_folders() for path in folder.glob("_*.py")]
    assert all(len(path.read_text().splitlines()) < MOST_LINES for path in helpers)
