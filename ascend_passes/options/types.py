"""Is a value one that an option can have, by its type and range alone; and what its text stands
for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field
from types import MappingProxyType
from typing import Any

HIGHEST = 2**31 - 1
"""Of every count: the operators take theirs as int32."""
COMMA = re.compile(r",(?![^\[]*\])")
SHOWN = 80
"""Characters of a wrong value that an error repeats."""


class OptionError(ValueError):
    """An option that does not exist or has a value that it cannot have; the text lists what is
    valid."""


def unknown(name: Any, known: Mapping[str, Any]) -> str:
    """The error text for an option that does not exist, with the nearest name first."""
    hint = nearest(name, known)
    return f"unknown option {shown(name)}.{hint} Valid options: {', '.join(sorted(known))}."


def nearest(name: Any, known: Iterable[str], written: Callable[[str], Any] = str) -> str:
    """` Did you mean 'swiglu'?` for a name that is almost one of the known; else nothing.

    Args:
        name: what was given.
        known: what it may be.
        written: how one of these is written where it is given.
    """
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else ()
    return f" Did you mean {written(near[0])!r}?" if near else ""


def split_words(text: str) -> list[str]:
    """The parts between commas; those in brackets, as in `rms_norm_quant[zero,bias]`, part
    nothing."""
    return COMMA.split(text)


def shown(value: Any) -> str:
    """A wrong value as an error repeats it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def option_kind(f: Field[Any]) -> Any:
    """The type of an option's values, read off its default."""
    return Mapping if f.name == "expect" else type(f.default)


def checked_value(f: Field[Any], value: Any, origin: str) -> Any:
    """`value` if the option may have it.

    Raises:
        OptionError: a wrong type, a count out of range, or a value outside the choices.
    """
    wanted = option_kind(f)
    if wanted is Mapping:
        return check_counts(value, origin)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        given = f"{shown(value)} ({type(value).__name__})"
        raise OptionError(f"{origin} must be a {wanted.__name__}, not {given}.")
    choices = f.metadata["choices"]
    if choices and value not in choices:
        valid = f"valid values: {', '.join(choices)}.{nearest(value, choices)}"
        raise OptionError(f"{origin} is {shown(value)}; {valid}")
    if wanted is int:
        check_range(value, f.metadata["lowest"], f.metadata["highest"], origin)
    return value


def check_range(value: int, lowest: int, highest: int, origin: str) -> None:
    """Raise OptionError for a count out of range."""
    if value < lowest:
        raise OptionError(f"{origin} is {shown(value)}; it must be at least {lowest}.")
    if value > highest:
        raise OptionError(f"{origin} is {shown(value)}; it must be at most {highest}.")


def check_counts(value: Any, origin: str) -> Mapping[str, int]:
    """A read-only copy of `expect`; errors as in `checked_value`."""
    if not isinstance(value, Mapping):
        raise OptionError(
            f"{origin} must be a dict of rule name to count, not {shown(value)} "
            f"({type(value).__name__})."
        )
    for name, count in value.items():
        if not isinstance(count, int) or isinstance(count, bool):
            raise OptionError(f"{origin}: {shown(name)} must have a count, not {shown(count)}.")
        check_range(count, 0, HIGHEST, f"{origin}: the count of {shown(name)}")
    return MappingProxyType(dict(value))


def parse(f: Field[Any], text: str, origin: str) -> Any:
    """The value that an environment variable's text stands for; errors as in `checked_value`."""
    wanted = option_kind(f)
    if wanted is bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        if text.lower() not in words:
            raise OptionError(f"{origin} is {shown(text)}; write 1 or 0.")
        return words[text.lower()]
    try:
        if wanted is int:
            return checked_value(f, int(text), origin)
        if wanted is Mapping:
            pairs = (part.rsplit("=", 1) for part in split_words(text))
            return check_counts({name.strip(): int(count) for name, count in pairs}, origin)
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        example = "a whole number" if wanted is int else "name=count pairs, separated by commas"
        raise OptionError(f"{origin} is {shown(text)}; write {example}.") from None
    return checked_value(f, text, origin)
