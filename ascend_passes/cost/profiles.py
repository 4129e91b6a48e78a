"""Device profiles: the rates and latencies that the cost model computes with."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ascend_passes.ir.traits import ALL_REDUCE, COLLECTIVES
from ascend_passes.options.types import OptionError, nearest, shown

MOST_BYTES = 65536
"""Of a profile's file; `tune` writes about 500."""
MOST_RATE = 1e21
"""Operations or bytes per second; far above any device."""
MOST_SECONDS = 60.0
"""Of a latency."""
LATENCIES = ("matmul_launch", "vector_launch", "collective_latency", "hop_latency")
TERA = 1e12
GIGA = 1e9
MICRO = 1e-6


Points = Sequence[tuple[float, float]]
"""Bytes that a rank sends, and seconds; in ascending order, two or more."""


@dataclass(frozen=True)
class Profile:
    """What one device does, per second; effective rates, not peaks, where a source gives them."""

    name: str
    source: str
    """Where the figures come from."""
    matmul_rates: Mapping[str, float] = field(default_factory=dict)
    """Element type -> operations per second, a multiply and an add being two."""
    memory_bandwidth: float = 1.0
    """Bytes per second that a memory-bound kernel reaches."""
    link_bandwidth: float = 1.0
    """Bytes per second that a rank sends in a collective, all links together; infinite where one
    process was measured, which sends nothing."""
    matmul_launch: float = 0.0
    """Seconds a matmul takes beyond its work."""
    vector_launch: float = 0.0
    """Seconds another kernel takes beyond its work."""
    collective_latency: float = 0.0
    """Seconds a collective takes beyond its bytes."""
    hop_latency: float = 0.0
    """Seconds per step between ranks; an all_reduce has two steps, the others one."""
    collective_times: Mapping[str, Points] = field(default_factory=dict)
    """Kind of collective -> measured times, by the bytes that a rank sends: for those the two
    latencies and the bandwidth do not count. Small messages run below the bandwidth of large ones,
    and each kind of collective at a rate of its own."""

    def collective_seconds(self, kind: str, sent: float) -> float:
        """Seconds of a collective in which each rank sends so many bytes.

        Between measured times they lie on a line, and so they do behind the last two.
        """
        points = self.collective_times.get(kind)
        if not points:
            steps = 2 if kind == ALL_REDUCE else 1
            latency = self.collective_latency + steps * self.hop_latency
            return latency + sent / self.link_bandwidth
        if sent <= points[0][0]:
            return points[0][1]
        at = next((n for n, (size, _) in enumerate(points) if sent <= size), len(points) - 1)
        (low, start), (high, end) = points[max(at, 1) - 1], points[max(at, 1)]
        return start + (sent - low) * (end - start) / (high - low)

    def matmul_rate(self, dtype: str) -> float:
        """Operations per second for an element type; an unknown one counts as the slowest."""
        return self.matmul_rates.get(dtype, min(self.matmul_rates.values()))

    def figures(self) -> dict[str, float]:
        """Every number by its name, with its unit."""
        rates = {f"{dtype} products, operations/s": n for dtype, n in self.matmul_rates.items()}
        bandwidths = ("memory_bandwidth", "link_bandwidth")
        return {
            **rates,
            **{f"{name}, bytes/s": getattr(self, name) for name in bandwidths},
            **{f"{name}, s": getattr(self, name) for name in LATENCIES},
        }

    def to_json(self) -> str:
        """The profile as the text of a file that `read_profile` takes."""
        figures = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tables = {name: dict(getattr(self, name)) for name in ("matmul_rates", "collective_times")}
        return json.dumps(figures | tables, indent=2)


def rates(int8: float, half: float, single: float) -> Mapping[str, float]:
    """Matmul rates by element type, given in tera-operations per second."""
    table = {"int8": int8, "bfloat16": half, "float16": half, "float32": single}
    return MappingProxyType({name: figure * TERA for name, figure in table.items()})


ATLAS_800_A2 = Profile(
    name="atlas-800-a2",
    source="measured times of CANN's operators on a 910B4, fitted by "
    "tests/bench/fit_operator_times.py (docs/measurements.md has the error of each); float32 a "
    "quarter of bfloat16, as by public figures; full-mesh HCCS 196 GB/s at 70 %",
    matmul_rates=rates(370, 210, 52),
    memory_bandwidth=900 * GIGA,
    link_bandwidth=196 * GIGA * 0.7,
    matmul_launch=8.4 * MICRO,
    vector_launch=4.8 * MICRO,
    collective_latency=10 * MICRO,
    hop_latency=0.5 * MICRO,
)
ATLAS_800_A3 = dataclasses.replace(
    ATLAS_800_A2,
    name="atlas-800-a3",
    source="one die of a 910C as a 910B; public figure of the HCCS fabric, 392 GB/s for two dies, "
    "at 70 %",
)
H100 = Profile(
    name="h100",
    source="NVIDIA H100 SXM data sheet: 1979 TOPS int8, 989 TFLOPS bf16, 3.35 TB/s HBM3 at 80 %, "
    "NVLink 4 450 GB/s each way at 75 %; latencies of NCCL rings without multicast",
    matmul_rates=rates(1979 * 0.6, 989 * 0.7, 67),
    memory_bandwidth=3.35 * TERA * 0.8,
    link_bandwidth=450 * GIGA * 0.75,
    matmul_launch=5 * MICRO,
    vector_launch=4 * MICRO,
    collective_latency=18 * MICRO,
    hop_latency=1 * MICRO,
)
H200 = dataclasses.replace(
    H100,
    name="h200",
    source=H100.source.replace("H100 SXM", "H200 SXM").replace("3.35 TB/s HBM3", "4.8 TB/s HBM3e"),
    memory_bandwidth=4.8 * TERA * 0.8,
)
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {profile.name: profile for profile in (ATLAS_800_A2, ATLAS_800_A3, H100, H200)}
)


def read_profile(name: str) -> Profile:
    """A built-in profile by name, or one from a file that `tune` wrote.

    Raises:
        OptionError: neither a profile nor a file that holds one.
    """
    if name in PROFILES:
        return PROFILES[name]
    try:
        return from_figures(json.loads(text_of(Path(name))))
    except RecursionError:
        problem = "its JSON is nested too deeply"
    except (OSError, ValueError) as error:
        problem = str(error)
    known = f"neither one of {', '.join(PROFILES)} nor a profile file"
    raise OptionError(f"option 'profile' is {shown(name)}: {known} ({problem}).{hint(name)}")


def hint(name: str) -> str:
    """The built-in profile that is meant, or how to get a file."""
    return nearest(name, PROFILES) or " `ascend-passes tune` writes one."


def text_of(path: Path) -> str:
    """What a profile's file holds.

    Raises:
        OSError, ValueError: no ordinary file, one of more than `MOST_BYTES`, or no text.
    """
    if not path.is_file():  # a device such as /dev/zero never ends
        raise ValueError("there is no such file" if not path.exists() else "it is no file")
    if not 0 < path.stat().st_size <= MOST_BYTES:  # files of /proc say 0, and may wait for ever
        raise ValueError(f"it has not between 1 and {MOST_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def from_figures(figures: Any) -> Profile:
    """The profile of a file.

    Raises:
        ValueError: figures that are missing, unknown, of a wrong type or out of range.
    """
    if not isinstance(figures, dict):
        raise ValueError("it must hold a JSON object")
    known = [f.name for f in dataclasses.fields(Profile)]
    for name in figures:
        if name not in known:
            raise ValueError(f"{shown(name)} is no figure of a profile.{nearest(name, known)}")
    for name in known:
        if name not in figures and name != "collective_times":  # files of earlier versions
            raise ValueError(f"{name} is missing")
    for name in ("name", "source"):
        if not isinstance(figures[name], str):
            raise ValueError(f"{name} must be a text, not {shown(figures[name])}")
    table = figures["matmul_rates"]
    if not isinstance(table, dict) or not table:
        raise ValueError("matmul_rates must hold element type and operations per second")
    for dtype, rate in table.items():
        require_within(f"matmul_rates[{shown(dtype)}]", rate, 1.0, MOST_RATE)
    require_within("memory_bandwidth", figures["memory_bandwidth"], 1.0, MOST_RATE)
    require_within("link_bandwidth", figures["link_bandwidth"], 1.0, math.inf)
    for name in LATENCIES:
        require_within(name, figures[name], 0.0, MOST_SECONDS)
    times = measured_times(figures.get("collective_times", {}))
    tables = {"matmul_rates": MappingProxyType(table), "collective_times": times}
    return Profile(**{**figures, **tables})


def measured_times(given: Any) -> Mapping[str, Points]:
    """The times of collectives in a file; errors as in `from_figures`."""
    if not isinstance(given, dict) or not set(given) <= set(COLLECTIVES):
        raise ValueError(f"collective_times must hold times of {', '.join(COLLECTIVES)}")
    for kind, points in given.items():
        pairs = isinstance(points, list) and all(
            isinstance(p, list) and len(p) == 2 for p in points
        )
        if not pairs or len(points) < 2:
            raise ValueError(f"collective_times[{kind}] must hold two pairs of bytes and seconds")
        for size, seconds in points:
            require_within(f"bytes in collective_times[{kind}]", size, 0.0, MOST_RATE)
            require_within(f"seconds in collective_times[{kind}]", seconds, 0.0, MOST_SECONDS)
        rising = itertools.pairwise(points)
        if any(low >= high or soon > late for (low, soon), (high, late) in rising):
            raise ValueError(f"collective_times[{kind}] must rise from pair to pair")
    return MappingProxyType({kind: tuple(map(tuple, points)) for kind, points in given.items()})


def require_within(name: str, figure: Any, lowest: float, highest: float) -> None:
    """Raise ValueError for what is no number between these."""
    number = isinstance(figure, (int, float)) and not isinstance(figure, bool)
    if not number or not lowest <= figure <= highest:  # NaN is in no range
        wanted = f"a number from {lowest:g} to {highest:g}"
        raise ValueError(f"{name} must be {wanted}, not {shown(figure)}")
