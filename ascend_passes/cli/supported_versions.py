"""Which installed versions are outside of what this package takes."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping

from ascend_passes.support import version_ranges

OWN = "ascend-passes"
"""The distribution of this package."""
REQUIREMENT = re.compile(r"([A-Za-z0-9_-]+)((?:[<>]=?[0-9.]+,?)+)")
"""A requirement of its metadata that has a range: name and range."""


def outside(versions: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """The distributions whose version this package does not take, each with what it takes. A
    package that is not installed, as beside vLLM's own torch, asks nobody."""
    for name, span in ranges_taken().items() if versions[OWN] else ():
        installed = versions.get(name)
        if installed and not is_within(installed, span):
            yield name, span


def ranges_taken() -> dict[str, str]:
    """Distribution -> range: of the table of support, since no extra asks for a build of vLLM, and
    of the metadata."""
    found = filter(None, map(REQUIREMENT.match, importlib.metadata.requires(OWN) or ()))
    return version_ranges() | {one[1]: one[2] for one in found}


def is_within(version: str, span: str) -> bool:
    """Whether a version is in a range such as `>=2.11,<2.14`; by its numbers alone."""
    numbers = release(version)
    below = [release(one[1:]) for one in span.split(",") if one[:1] == "<"]
    above = [release(one[2:]) for one in span.split(",") if one[:2] == ">="]
    return all(numbers >= one for one in above) and all(numbers < one for one in below)


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: 2.11.0 for `2.11.0.post1+cpu`."""
    numbers = re.match(r"[0-9.]*", version)
    parts = (numbers[0] if numbers else "").strip(".").split(".")
    return tuple(int(part) for part in parts if part)


def ranged(name: str, version: str | None, span: str) -> str:
    """What to do about a version that is not supported."""
    return f"{name} {version} is not supported: `pip install '{name}{span}'`."
