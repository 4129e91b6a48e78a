"""Rule files say what is theirs: what several need stands in one place."""

from __future__ import annotations

from ascend_passes.engine.registry import pattern_folders
from ascend_passes.verify.checks import MOST_LINES

MOST_SHARED = 0.2
"""Of the lines of all rule files those that may stand in another one as well, other imports
included."""
NEEDED = "from ascend_passes import Rule, npu"
"""What each rule file has to say."""
MOST_SHARED_BY_ONE = 0.5
"""Of a file of ten lines the imports alone are a fifth."""
FILES = {
    path: [line.strip() for line in path.read_text().splitlines() if line.strip()]
    for folder in pattern_folders()
    for path in folder.glob("[!_]*.py")
}


def shared(path):
    """The lines of a rule file that stand in another one."""
    others = {line for other, lines in FILES.items() if other != path for line in lines}
    return [line for line in FILES[path] if line in others and line != NEEDED]


def test_little_of_a_rule_file_stands_in_another():
    assert len(FILES) > 6
    much = {path.name: shared(path) for path in FILES}
    total = sum(map(len, FILES.values()))
    assert sum(map(len, much.values())) <= MOST_SHARED * total
    by_one = {path.name: len(much[path.name]) / len(FILES[path]) for path in FILES}
    assert not {name: part for name, part in by_one.items() if part > MOST_SHARED_BY_ONE}


def test_helpers_are_short_too():
    helpers = [path for folder in pattern_folders() for path in folder.glob("_*.py")]
    assert all(len(path.read_text().splitlines()) < MOST_LINES for path in helpers)
