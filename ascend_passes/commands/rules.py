"""Find the rule that a command is about."""

from __future__ import annotations

import difflib

from ascend_passes.options import Options
from ascend_passes.registry import find, pattern_folders, rules
from ascend_passes.rule import Rule, RuleError


def every_rule(options: Options) -> tuple[Rule, ...]:
    """All rules by name, whether they are on or not."""
    shipped = [rule for folder in pattern_folders() for rule in find(folder)]
    names = {rule.name for rule in shipped}
    own = [rule for rule in rules(options) if rule.name not in names]
    return tuple(sorted((*shipped, *own), key=lambda rule: rule.name))


def rule_named(name: str, options: Options) -> Rule:
    """The rule of a name.

    Raises:
        RuleError: no rule has it; the text names the nearest and the command that lists all.
    """
    known = {rule.name: rule for rule in every_rule(options)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RuleError(f"there is no rule {name!r}.{hint} `ascend-passes list` names all.")
