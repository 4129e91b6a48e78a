"""Which combinations of a pattern's choices are forms: the operators allow them on both sides."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ascend_passes.engine.emission import refuse_limits, traced_replacement
from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.engine.template import outline
from ascend_passes.ir.graph import Context
from ascend_passes.verify.trial import Trial, trials


@functools.cache
def is_form(rule: Rule, spelling: Spelling) -> bool:
    """Whether a spelling has to fire; always where its function has no choices.

    No form is a combination for which the pattern returns None, or whose operators, of the pattern
    or of the replacement, refuse it, at every dtype.
    """
    if spelling.alone:
        return True
    dtypes = (dtype for dtype in rule.dtypes if outline(rule, spelling, dtype, "cpu") is not None)
    return any(is_allowed(next(trials(rule, spelling, dtype, seed=0))) for dtype in dtypes)


def is_allowed(trial: Trial) -> bool:
    """Whether no limit of an operator refuses either side."""
    sides = trial.graph().graph, traced_replacement(trial.rule, trial.fakes(), trial.given)
    return all(refuse_limits(Context(), side) is None for side in sides)


def choices_without_form(rule: Rule) -> Iterator[str]:
    """A sentence for each choice that is a form with none of the others, and for a function that
    has no form at all."""
    forms = [spelling for spelling in rule.spellings if is_form(rule, spelling)]
    known = {choice for spelling in forms for choice in choices_of(spelling)}
    every = (choice for spelling in rule.spellings for choice in choices_of(spelling))
    for choice in dict.fromkeys(every):
        if choice not in known:
            yield f"{choice} has no form: the pattern returns None, or an operator allows it never"


def choices_of(spelling: Spelling) -> list[str]:
    """The function, and each of its choices with it: `pattern`, `pattern[zero]`."""
    function = spelling.name.partition("[")[0]
    return [function, *(f"{function}[{label}]" for label in spelling.labels)]
