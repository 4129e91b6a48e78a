"""Find the rule that a command is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ascend_passes.cli.limit import limited
from ascend_passes.engine.registry import find, pattern_folders, rules
from ascend_passes.engine.rule import Rule, RuleError
from ascend_passes.options.types import nearest, shown
from ascend_passes.options.value import Options


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
    hint = nearest(name, known)
    raise RuleError(f"there is no rule {shown(name)}.{hint} `ascend-passes list` names all.")


@contextmanager
def blamed(rule: Rule, seconds: float) -> Iterator[None]:
    """Inside, what a rule's code raises becomes one RuleError that names it, as does no end."""
    where = f"rule {rule.name} ({rule.source})"
    with limited(seconds, where):
        try:
            yield
        except RuleError:
            raise
        except (Exception, SystemExit) as error:
            raise RuleError(f"{where} raised {type(error).__name__}: {error}") from error
