"""Find the rule or the recognition that a command is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ascend_passes.cli.limit import limited
from ascend_passes.compile.option_values import family_hint
from ascend_passes.engine.registry import find, pattern_folders, rules
from ascend_passes.engine.rule import Rule, RuleError
from ascend_passes.meaning.family import Recognition, Recognizer
from ascend_passes.meaning.recognize import recognitions
from ascend_passes.options.types import nearest, shown
from ascend_passes.options.value import Options


def every_rule(options: Options) -> tuple[Rule, ...]:
    """All rules by name, whether they are on or not."""
    shipped = [rule for folder in pattern_folders() for rule in find(folder)]
    names = {rule.name for rule in shipped}
    own = [rule for rule in rules(options) if rule.name not in names]
    return tuple(sorted((*shipped, *own), key=lambda rule: rule.name))


@dataclass(frozen=True)
class Recognized:
    """A recognition as a command names it."""

    name: str
    family: Recognizer
    recognition: Recognition


Named = Rule | Recognized
"""What a name of the option `rules` stands for."""


def every_recognition() -> tuple[Recognized, ...]:
    """All recognitions by name, whether they are on or not."""
    found = (Recognized(name, family, one) for name, (family, one) in recognitions().items())
    return tuple(sorted(found, key=lambda one: one.name))


def every_named(options: Options) -> tuple[Named, ...]:
    """All recognitions and rules by name, whether they are on or not."""
    every: tuple[Named, ...] = (*every_recognition(), *every_rule(options))
    return tuple(sorted(every, key=lambda one: one.name))


def the_named(name: str, options: Options) -> Named:
    """The rule or the recognition of a name.

    Raises:
        RuleError: none has it; the text names the nearest and the command that lists all.
    """
    known = {one.name: one for one in every_named(options)}
    if name in known:
        return known[name]
    hint = family_hint(name) or nearest(name, known)
    raise RuleError(f"there is no rule {shown(name)}.{hint} `ascend-passes list` names all.")


@contextmanager
def blamed(one: Named, seconds: float) -> Iterator[None]:
    """Inside, what a rule's code raises becomes one RuleError that names it, as does no end."""
    where = f"recognition {one.name}"
    if isinstance(one, Rule):
        where = f"rule {one.name} ({one.source})"
    with limited(seconds, where):
        try:
            yield
        except RuleError:
            raise
        except (Exception, SystemExit) as error:
            raise RuleError(f"{where} raised {type(error).__name__}: {error}") from error
