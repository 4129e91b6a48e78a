"""Is a value one that an option can have: rules, passes, profiles, chips and folders that exist.

One check for every entrance: backend, `optimize`, `explain`, the commands and vLLM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ascend_passes.compile import pass_names
from ascend_passes.cost import profiles
from ascend_passes.engine import registry
from ascend_passes.meaning.finding import OF_WIDENED_ROWS
from ascend_passes.meaning.recognize import recognitions
from ascend_passes.npu.operator import A2, A3, A5, is_soc
from ascend_passes.options.plans import capture_sizes
from ascend_passes.options.types import OptionError, nearest, shown
from ascend_passes.options.value import MOST_CAPTURED, Options, switch_words

CHIPS = (A2, A3, A5)
"""Families whose limits are known; a chip's name goes on behind, as in `Ascend910B1`."""
MAKER = "Ascend"


def checked_options(given: Mapping[str, Any] | Options | None = None) -> Options:
    """Defaults, then environment variables, then `given`, which wins; every name in them exists.

    Raises:
        OptionError: an unknown name, a wrong type, or a value that the option cannot have.
        RuleError: a folder in `rule_path` that holds no rules, or a file that is none.
    """
    options = Options.read(given)
    check_values(options)
    return options


def check_values(options: Options) -> None:
    """Refuse what names nothing.

    Raises:
        OptionError: a switch, a count, a profile, a chip, a size or a folder that there is not.
        RuleError: a folder in `rule_path` that holds no rules, or a rule file that does not load.
    """
    profiles.read_profile(options.profile)
    check_sizes(options)
    check_chip(options.soc)
    check_folder(options.dump)
    check_switches("passes", options.passes, pass_names.switchable)
    if not (options.rules or options.expect or options.rule_path):
        return
    rules = rule_names(options)
    check_switches("rules", options.rules, lambda: rules)
    widened = (name + OF_WIDENED_ROWS for name in recognitions())
    check_expected_names(options.expect, (*rules, *widened, *pass_names.countable_names()))


def rule_names(options: Options) -> tuple[str, ...]:
    """The names of all recognitions, rules and their spellings, the user's own among them.

    Raises:
        RuleError: a rule that is named as a recognition is; and as `registry.rules`.
    """
    every = registry.rules(dataclasses.replace(options, rules="+*"))
    registry.refuse_taken(every, recognitions())
    spellings = (rule.name_of(spelling) for rule in every for spelling in rule.spellings)
    return tuple(dict.fromkeys((*recognitions(), *(rule.name for rule in every), *spellings)))


def check_switches(option: str, switches: str, known: Callable[[], Iterable[str]]) -> None:
    """Raise OptionError for a switch without its sign, or one that names nothing."""
    names = [name for _, name in switch_words(switches) if name != "*"]
    valid = tuple(known()) if names else ()
    for name in names:
        if name not in valid:
            hint = family_hint(name) or nearest(name, valid) or all_names(option)
            raise OptionError(
                f"option {option!r} switches {shown(name)}, which does not exist.{hint}"
            )


def family_hint(name: str) -> str:
    """What a family's name stands for, by which reports tell what is left; "" for another name."""
    members = [one for one, (family, _) in recognitions().items() if family.name == name]
    return f" It is the family of {', '.join(members)}; name one of these." if members else ""


def all_names(option: str) -> str:
    """Where the names are that an option takes, for one that is like none of them."""
    if option == "passes":
        return f" Valid names: {', '.join(pass_names.switchable())}."
    return " `ascend-passes list` names all."


def check_expected_names(expected: Iterable[str], known: Iterable[str]) -> None:
    """Raise OptionError for a count of something that no report counts."""
    valid = tuple(known)
    for name in expected:
        if name not in valid:
            hint = family_hint(name) or nearest(name, valid) or all_names("rules")
            raise OptionError(
                f"option 'expect' counts {shown(name)}, which is no rule and no pass.{hint}"
            )


def check_sizes(options: Options) -> None:
    """Raise OptionError for sizes that cannot be read, or of which the limit leaves none."""
    if not options.capture_sizes or capture_sizes(options):
        return
    given = f"option 'capture_sizes' is {shown(options.capture_sizes)}"
    raise OptionError(
        f"{given}, all above the capture limit; raise option 'capture_limit', "
        f"now {options.capture_limit}, up to {MOST_CAPTURED}."
    )


def check_chip(soc: str) -> None:
    """Raise OptionError for a chip whose limits are not known."""
    if soc.startswith(MAKER) and is_soc(soc, *CHIPS):
        return
    known = f"known chips begin with {', '.join(CHIPS)}."
    raise OptionError(f"option 'soc' is {shown(soc)}; {known}{nearest(soc, CHIPS)}")


def check_folder(dump: str) -> None:
    """Make the folder of a dump; OptionError where there can be none."""
    if not dump:
        return
    try:
        Path(dump).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        wrong = f"option 'dump' is {shown(dump)}, which is no folder; name a folder."
        raise OptionError(wrong) from None
    except (OSError, ValueError) as error:
        wrong = f"option 'dump' is {shown(dump)}, a folder that cannot be made: {error}."
        raise OptionError(f"{wrong} Name one that can be written.") from None
