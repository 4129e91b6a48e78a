"""What stays spelled out, out of all that the rules and passes refused.

A rule looks at many places that are none of its own: a norm of queries has no residual that could
be added, and a buffer of zeros that one of our rules made is nobody's to eliminate. Such a look
stays among the misses; what a user could gain by is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from ascend_passes.engine.registry import rules
from ascend_passes.meaning.finding import OF_WIDENED_ROWS
from ascend_passes.meaning.recognize import recognitions
from ascend_passes.options.value import Options
from ascend_passes.report.fixes import fix_for
from ascend_passes.report.value import Left, Miss, Report

OTHER_OPERATOR = ("stands where", "does not follow", "was not found", "is None, not")
"""What a reason says that means: here is something else than the rule is about."""
BY_DESIGN = ("only one token shares its mask",)
"""Parts of reasons that say: it is right as it is. Prompts keep their repeated heads, paid once."""
NOBODYS = ("an input depends on an output", "which is used outside the pattern as well")
"""Parts of reasons that say: no operator can take this graph's nodes together, whatever its
limits."""
OF_THE_MODEL = ("eliminate_zeros",)
"""Passes that a user gains by alone where the model itself wrote what they look at."""


def left_of(report: Report, options: Options) -> tuple[Left, ...]:
    """The misses of a report that are worth a user's attention, one for each place and reason.

    Args:
        report: of a whole run, with the kernels of the traced graph.
        options: those of the run.
    """
    kinds = {rule.name: rule.kind for rule in rules(options)}
    told = {one.family for one in report.left}
    written = {kernel.name for kernel in report.before}
    found = open_misses(report.misses, kinds, written)
    made = (Left(one.rule, one.place, one.reason, fix_for(one.reason)) for one in found)
    return tuple(dict.fromkeys(one for one in made if one.family not in told))


def families_in(fired: Iterable[str]) -> dict[str, str]:
    """Recognition that fired -> its family, by whose name misses are told."""
    known = recognitions()
    bases = {name: name.removesuffix(OF_WIDENED_ROWS) for name in fired}
    return {name: known[base][0].name for name, base in bases.items() if base in known}


def refusals(misses: Iterable[Miss]) -> Iterator[Miss]:
    """The whole matches that were refused and that an operator could have taken."""
    for miss in misses:
        if miss.complete and not any(text in miss.reason for text in NOBODYS):
            yield miss


def open_misses(
    misses: Sequence[Miss], kinds: Mapping[str, str], written: Set[str]
) -> Iterator[Miss]:
    """The misses at candidates.

    Args:
        misses: what all rules and passes refused.
        kinds: of each rule, recognize or fuse; passes have none.
        written: the kernels that the model itself asks for.
    """
    for miss in misses:
        if miss.rule in OF_THE_MODEL and miss.node not in written:
            continue
        if kinds.get(miss.rule) == "fuse" and is_no_candidate(miss):
            continue
        if any(text in miss.reason for text in BY_DESIGN):
            continue
        yield miss


def is_no_candidate(miss: Miss) -> bool:
    """Whether the operators beside the one that a fusion starts from are not those it joins."""
    return not miss.complete and any(text in miss.reason for text in OTHER_OPERATOR)
