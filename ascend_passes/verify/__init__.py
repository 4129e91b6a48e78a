"""Is a rule right: it fires, its two sides agree, and nothing else fires it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import product

from ascend_passes.engine.rule import Rule, Spelling
from ascend_passes.verify.checks import CHECKS, Check, is_documented
from ascend_passes.verify.choices import is_form


@dataclass(frozen=True)
class Finding:
    """A fault of a rule."""

    check: str
    """The function here that found it."""
    spelling: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.check}, spelling {self.spelling}: {self.sentence}"


def check(rule: Rule, seed: int | None = None) -> list[Finding]:
    """The faults that all checks find in all spellings of a rule.

    Args:
        rule: the rule, as the registry loads it.
        seed: of the random inputs and sizes; a fresh one where none is given. Sentences name it.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    return [
        finding
        for spelling, one in product(rule.spellings, CHECKS)
        for finding in findings(rule, spelling, one, seed)
    ]


def findings(rule: Rule, spelling: Spelling, one: Check, seed: int) -> list[Finding]:
    """The faults that one check finds; what a rule's code raises is one as well. Of a combination
    that is no form only the declaration counts."""
    sentences: list[str] = []
    try:
        if one is is_documented or is_form(rule, spelling):
            sentences.extend(one(rule, spelling, seed))
    except Exception as error:
        sentences.append(f"raised {type(error).__name__}: {error} (seed {seed})")
    return [Finding(one.__name__, spelling.name, sentence) for sentence in sentences]
