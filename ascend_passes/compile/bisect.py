"""Which rules and passes make a compiled model compute something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ascend_passes.compile.option_values import checked_options
from ascend_passes.compile.stages import STAGES, recognizes
from ascend_passes.engine.registry import rules
from ascend_passes.meaning.recognize import is_wanted, recognitions
from ascend_passes.options.value import Options, switched_on

Differs = Callable[[Mapping[str, Any]], bool]
"""Whether a model compiled with these options gives other results than one left as it is."""


class BisectError(ValueError):
    """There is nothing to search in; the text says why."""


@dataclass(frozen=True)
class Switch:
    """A rule or pass that can be switched off."""

    option: str
    """`rules` or `passes`."""
    name: str

    def __str__(self) -> str:
        return f"{'rule' if self.option == 'rules' else 'pass'} {self.name}"


def switches(options: Options) -> tuple[Switch, ...]:
    """Every rule, recognition and pass that these options leave on, in the order in which they
    first act."""
    on = list(rules(options))
    found: list[Switch] = []
    for stage in STAGES:
        if not switched_on(stage.name, options.passes):
            continue
        found.append(Switch("passes", stage.name))
        if stage.name == "recognize":
            found += [
                Switch("rules", name)
                for name, (family, _) in recognitions().items()
                if is_wanted(family, name, options)
            ]
        if stage.name in ("recognize", "fuse"):
            acting = [rule for rule in on if stage.name == "fuse" or recognizes(rule)]
            found += [Switch("rules", rule.name) for rule in acting]
    return tuple(dict.fromkeys(found))


def switched_off(given: Mapping[str, Any], off: Sequence[Switch]) -> dict[str, Any]:
    """The options with these switched off as well."""
    options = dict(given)
    for option in ("rules", "passes"):
        words = [f"-{switch.name}" for switch in off if switch.option == option]
        options[option] = ",".join(filter(None, [options.get(option, ""), *words]))
    return options


def culprits(given: Mapping[str, Any], differs: Differs) -> Iterator[Switch]:
    """The rules and passes without which the difference is gone, found by halving.

    None where results do not differ.

    Each is a point at which a right model becomes wrong as rules and passes come on one after the
    other; with several of them the first is switched off and the search goes on.

    Args:
        given: the options under which results differ.
        differs: compiles and runs the model; called about six times for each culprit.

    Raises:
        BisectError: results differ with everything switched off as well.
    """
    if not differs(switched_off(given, [])):
        return
    remaining = switches(checked_options(given))
    if differs(switched_off(given, remaining)):
        raise BisectError(
            "results differ with every rule and pass switched off too: look at the executor, at "
            "capture, or at the model's own randomness."
        )
    found: list[Switch] = []
    while not found or differs(switched_off(given, found)):
        found.append(first_wrong(remaining, found, given, differs))
        remaining = tuple(switch for switch in remaining if switch not in found)
        yield found[-1]


def first_wrong(
    remaining: Sequence[Switch], found: Sequence[Switch], given: Mapping[str, Any], differs: Differs
) -> Switch:
    """The switch that makes results differ when those in front of it are on as well."""
    right, wrong = 0, len(remaining)  # that many are on
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if differs(switched_off(given, [*found, *remaining[middle:]])):
            wrong = middle
        else:
            right = middle
    return remaining[wrong - 1]
