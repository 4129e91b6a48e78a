"""What is gained and lost from one report to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ascend_passes.report.families import families_of, fusions, left_in
from ascend_passes.report.layers import seconds
from ascend_passes.report.value import Report

GAINED, LOST, OTHER = "gained", "lost", "other"
NOISE = 1e-9
"""Relative difference of two estimates that is none: they are sums in another order."""


@dataclass(frozen=True)
class Change:
    """One difference between two reports of a graph."""

    graph: str
    kind: str
    """gained, lost or other."""
    text: str


def changes_between(old: Mapping[str, Report], new: Mapping[str, Report]) -> list[Change]:
    """The differences graph by graph; those that only one side has are told as well.

    Args:
        old: name -> report.
        new: the same; a graph alone on each side is compared whatever it is called.
    """
    if len(old) == len(new) == 1:
        old = {next(iter(new)): next(iter(old.values()))}
    found = [Change(name, LOST, "the graph is gone") for name in old if name not in new]
    found += [Change(name, OTHER, "the graph is new") for name in new if name not in old]
    for name in old:
        if name in new:
            pairs = every_change(old[name], new[name])
            found += [Change(name, kind, text) for kind, text in pairs]
    return found


def every_change(old: Report, new: Report) -> Iterator[tuple[str, str]]:
    """Kind and text of each difference."""
    if len(old.before) != len(new.before):
        yield OTHER, f"the model has {len(new.before)} kernels, it had {len(old.before)}"
    yield from fewer_or_more("kernels that run", len(old.after), len(new.after))
    yield from estimated(old, new)
    yield from fused(old, new)
    yield from left_over(old, new)
    for error in sorted({*new.errors} - {*old.errors}):
        yield LOST, f"error: {error}"
    for error in sorted({*old.errors} - {*new.errors}):
        yield GAINED, f"no error any more: {error}"


def fewer_or_more(what: str, old: int, new: int) -> Iterator[tuple[str, str]]:
    """A count of which less is better."""
    if old != new:
        yield (GAINED if new < old else LOST), f"{what}: {old} -> {new}"


def estimated(old: Report, new: Report) -> Iterator[tuple[str, str]]:
    """The estimate, where both are on one profile."""
    was, now = seconds(old.after), seconds(new.after)
    if old.profile != new.profile:
        yield OTHER, f"estimates are on {new.profile or 'nothing'}, not {old.profile or 'nothing'}"
    elif abs(now - was) > NOISE * max(was, now):
        share = f" ({now / was - 1:+.1%})" if was else ""
        text = f"estimated: {1e3 * was:.3f} -> {1e3 * now:.3f} ms{share}"
        yield (GAINED if now < was else LOST), text


def fused(old: Report, new: Report) -> Iterator[tuple[str, str]]:
    """What fires more or less often, with what was possible."""
    was, now = fusions(old), fusions(new)
    for name in sorted({*was, *now}):
        a, b = was.get(name, 0), now.get(name, 0)
        if a != b:
            text = f"{name} fired {b} times{possible_text(name, old, new)}, it was {a}"
            yield (GAINED if b > a else LOST), text


def possible_text(name: str, old: Report, new: Report) -> str:
    """` of 3 possible`, or ` of 3 gated possible` where its family is counted together."""
    family = {**old.families, **new.families}.get(name, "")
    found = {one.name: one.possible for one in families_of(new)}
    if name in found:
        return f" of {found[name]} possible"
    return f" of {found[family]} {family} possible" if family in found else ""


def left_over(old: Report, new: Report) -> Iterator[tuple[str, str]]:
    """What is left and was not, and the other way round."""
    was, now = (
        Counter((one.family, one.place.module, one.reason) for one in left_in(report))
        for report in (old, new)
    )
    for (family, module, reason), count in (now - was).items():
        yield LOST, f"{count} {family} left at {module or 'an unnamed place'}: {reason}"
    for (family, module, reason), count in (was - now).items():
        yield GAINED, f"{count} {family} no longer left at {module or 'an unnamed place'}: {reason}"
