"""What the command line tells as a fault of the call; it asks for them without loading torch."""

from __future__ import annotations


class RuleError(ValueError):
    """A rule file that does not say what a rule needs; the text names the file and the fix."""


class ExpectationError(RuntimeError):
    """A rule fired less often than `expect` says, or `strict` met a refusal; the text says why."""
