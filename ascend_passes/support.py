"""Which versions go together: the one table behind metadata, `doctor`, tests and docs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Versions that belong together and that the tests run with."""

    name: str
    torch: str
    torch_npu: str
    vllm: str
    """"" where the registry has no build of it that runs without an accelerator."""
    vllm_ascend: str
    """"" where none was released for this vLLM."""
    transformers: str
    tested: str
    """What runs with it, in words."""


PAIRS = (
    Pair(
        name="released",
        torch="2.10.0",
        torch_npu="2.10.0.post4",
        vllm="0.23.0",
        vllm_ascend="0.23.0",
        transformers="5.5.4",
        tested="torch_npu's schemas and limits, what operators give, vllm-ascend's own engine "
        "with our passes in it, on the stand-in",
    ),
    Pair(
        name="current",
        torch="2.13.0",
        torch_npu="2.13.0",
        vllm="0.32.0",
        vllm_ascend="",
        transformers="5.19.0",
        tested="`make test`: everything",
    ),
    Pair(
        name="newest",
        torch="2.14.0",
        torch_npu="2.14.0",
        vllm="",
        vllm_ascend="",
        transformers="5.19.0",
        tested="torch_npu's schemas and limits, what operators give",
    ),
)
"""The oldest first. What vllm-ascend 0.23.0 requires makes the first; its 0.23.0.post1 requires the
same and is on the registry as sources alone."""
CURRENT = "current"
"""The pair that development and `make test` use."""


def pair_named(name: str) -> Pair:
    """The pair of this name; KeyError where there is none."""
    return {pair.name: pair for pair in PAIRS}[name]


def pair_of(torch: str) -> Pair | None:
    """The pair with this release of torch, `2.13.1+cpu` or the like; None where there is none."""
    return next((pair for pair in PAIRS if minor(pair.torch) == minor(torch)), None)


def minor(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    major, after = re.split("[.+]", version)[:2]
    return int(major), int(after)


def range_over(versions: Iterable[str]) -> str:
    """The range from the oldest minor release to before the one after the newest."""
    known = sorted(minor(version) for version in versions if version)
    (low, first), (high, last) = known[0], known[-1]
    return f">={low}.{first},<{high}.{last + 1}"


def version_ranges() -> dict[str, str]:
    """Distribution -> the range of versions that the package takes."""
    return {
        "torch": range_over(pair.torch for pair in PAIRS),
        "torch-npu": range_over(pair.torch_npu for pair in PAIRS),
        "vllm": range_over(pair.vllm for pair in PAIRS),
        "transformers": f">={PAIRS[0].transformers}",
    }
