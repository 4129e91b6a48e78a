"""Fits the Atlas profiles' launch times and rates to measured times of CANN's own operators.

    python tests/bench/fit_operator_times.py            # the table, and the figures of the profiles
    python tests/bench/fit_operator_times.py --check    # whether the profiles have them

`data/cann_operator_times.csv` are 547 rows of the test data of msopmodeling 1.0.9 (MindStudio,
MulanPSL-2.0): operator, chip, shapes, dtypes, runs and microseconds. They are taken for hardware
measurements; the package does not say how they were made. Facts alone are used here.

A row-wise operator is fitted as launch + bytes / bandwidth, a matmul as launch + the longer of its
bytes and its operations, so that the mean of |log(model / measured)| is least; its error is the
median and the largest of |model / measured - 1|. Only chips of the 910B4 are used, which an Atlas
800I A2 has; those of others are told apart.
"""

from __future__ import annotations

import argparse
import ast
import csv
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DATA = Path(__file__).with_name("data") / "cann_operator_times.csv"
CHIP = "910B4"
ITEM = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1, "int32": 4, "int64": 8, "bool": 1}
ROW_WISE = {
    "add": "add",
    "mul": "mul",
    "add_rms_norm": "npu_add_rms_norm",
    "rms_norm": "npu_rms_norm",
    "dynamic_quant": "npu_dynamic_quant",
    "ascend_quant_v2": "npu_quantize",
    "swiglu": "npu_swiglu",
}
"""The file's name of an operator -> ours."""
MATMULS = {"matmul": "bfloat16", "quant_batch_matmul": "int8"}
LEAST = 32
"""Rows and columns of a matmul below which its rate says nothing of larger ones."""


@dataclass(frozen=True)
class Measured:
    """One row of the file."""

    operator: str
    chip: str
    inputs: list[list[int]]
    outputs: list[list[int]]
    input_dtypes: list[str]
    output_dtypes: list[str]
    microseconds: float

    @property
    def traffic(self) -> float:
        """Bytes read and written once."""
        pairs = zip(
            [*self.inputs, *self.outputs], [*self.input_dtypes, *self.output_dtypes], strict=False
        )
        return float(sum(math.prod(shape) * ITEM[dtype.lower()] for shape, dtype in pairs if shape))

    @property
    def operations(self) -> float:
        """Of a matmul, a multiply and an add being two."""
        return 2.0 * math.prod(self.outputs[0]) * self.inputs[0][-1]


@dataclass(frozen=True)
class Fit:
    """What an operator takes: seconds, and bytes or operations per second."""

    launch: float
    bandwidth: float
    rate: float
    errors: tuple[float, ...]

    def seconds(self, row: Measured) -> float:
        """Of one call."""
        arithmetic = row.operations / self.rate if math.isfinite(self.rate) else 0.0
        return self.launch + max(row.traffic / self.bandwidth, arithmetic)


def measured() -> Iterator[Measured]:
    """The rows whose shapes and dtypes can be read."""
    for row in csv.DictReader(DATA.open()):
        try:
            shapes = [ast.literal_eval(row[key]) for key in ("input_shapes", "output_shapes")]
            dtypes = [ast.literal_eval(row[key]) for key in ("input_dtypes", "output_dtypes")]
        except (SyntaxError, ValueError):
            continue
        found = Measured(row["operator"], row["chip"], *shapes, *dtypes, float(row["median_us"]))
        if all(dtype.lower() in ITEM for dtype in (*dtypes[0], *dtypes[1])):
            yield found


def errors_of(fit: Fit, rows: Sequence[Measured]) -> tuple[float, ...]:
    """`model / measured - 1` of each row."""
    return tuple(fit.seconds(row) * 1e6 / row.microseconds - 1 for row in rows)


def loss(fit: Fit, rows: Sequence[Measured]) -> float:
    """Mean of |log(model / measured)|."""
    return statistics.fmean(abs(math.log1p(error)) for error in errors_of(fit, rows))


def spaced(low: float, high: float, count: int) -> list[float]:
    """Numbers whose neighbours have one ratio."""
    return [low * (high / low) ** (step / (count - 1)) for step in range(count)]


def fitted(rows: Sequence[Measured], rates: Sequence[float]) -> Fit:
    """The best of a grid, and of a finer one around it."""
    launches, bandwidths = spaced(0.5e-6, 20e-6, 40), spaced(100e9, 2e12, 40)
    best: Fit | None = None
    for _ in range(3):
        tried = [Fit(a, b, c, ()) for a, b, c in itertools.product(launches, bandwidths, rates)]
        best = min(tried, key=lambda fit: loss(fit, rows))
        launches = spaced(best.launch / 1.1, best.launch * 1.1, 15)
        bandwidths = spaced(best.bandwidth / 1.1, best.bandwidth * 1.1, 15)
        if len(rates) > 1:
            rates = spaced(best.rate / 1.1, best.rate * 1.1, 9)
    assert best is not None
    return Fit(best.launch, best.bandwidth, best.rate, errors_of(best, rows))


def rows_of(operator: str) -> list[Measured]:
    """An operator's rows on the chip; of a matmul those whose left factor is a matrix."""
    found = [row for row in measured() if row.operator == operator and row.chip.startswith(CHIP)]
    if operator not in MATMULS:
        return found
    return [row for row in found if len(row.inputs[0]) == 2 and row.inputs[0][1] >= LEAST]


def fits() -> dict[str, Fit]:
    """The file's operator -> its fit."""
    made = {name: fitted(rows_of(name), [math.inf]) for name in ROW_WISE}
    rates = spaced(20e12, 600e12, 25)
    return made | {name: fitted(rows_of(name), rates) for name in MATMULS}


def pooled(found: dict[str, Fit]) -> dict[str, float]:
    """The figures of the profiles, to two digits: of all row-wise operators together, and of the
    matmuls."""
    rows = [row for name in ROW_WISE for row in rows_of(name)]
    together = fitted(rows, [math.inf])
    products = [found[name] for name in MATMULS]
    figures = {
        "vector_launch": together.launch,
        "memory_bandwidth": together.bandwidth,
        "matmul_launch": statistics.fmean(fit.launch for fit in products),
        "bfloat16": found["matmul"].rate,
        "int8": found["quant_batch_matmul"].rate,
    }
    return {name: float(f"{figure:.2g}") for name, figure in figures.items()}


def line(name: str, fit: Fit) -> str:
    """A row of the table."""
    sizes = sorted(map(abs, fit.errors))
    rate = f"{fit.rate / 1e12:.0f}" if math.isfinite(fit.rate) else "-"
    numbers = f"{fit.launch * 1e6:.1f} | {fit.bandwidth / 1e9:.0f} | {rate} | {len(sizes)}"
    return f"| {name} | {numbers} | {statistics.median(sizes):.0%} | {sizes[-1]:.0%} |"


def errors_with(seconds: Callable[[Measured], float], name: str) -> list[float]:
    """|model / measured - 1| of an operator's rows under another model."""
    return sorted(abs(seconds(row) * 1e6 / row.microseconds - 1) for row in rows_of(name))


def of_profile(name: str, figures: dict[str, float]) -> Callable[[Measured], float]:
    """What the cost model says with a profile's figures."""
    dtype = MATMULS.get(name)

    def seconds(row: Measured) -> float:
        moved = row.traffic / figures["memory_bandwidth"]
        if dtype is None:
            return figures["vector_launch"] + moved
        return figures["matmul_launch"] + max(moved, row.operations / figures[dtype])

    return seconds


GUESSED = {
    "vector_launch": 2e-6,
    "memory_bandwidth": 1.6 * 2**40 * 0.6,
    "matmul_launch": 5e-6,
    "bfloat16": 354e12,
    "int8": 752e12,
}
"""What the profiles had before, from public peaks."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    settings = parser.parse_args()
    found = fits()
    figures = pooled(found)
    if settings.check:
        return int(figures != present())
    print("| operator | launch, us | GB/s | TOPS | rows | median error | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(line(name, fit) for name, fit in found.items()))
    print("\n| operator | median error of the profile | of the guess before |")
    print("| --- | --- | --- |")
    for name in found:
        new, old = (
            statistics.median(errors_with(of_profile(name, one), name))
            for one in (figures, GUESSED)
        )
        print(f"| {name} | {new:.0%} | {old:.0%} |")
    print(f"\n{figures}")
    return 0


def present() -> dict[str, float]:
    """The figures that the profile of an A2 has."""
    from ascend_passes.cost.profiles import ATLAS_800_A2

    names = ("vector_launch", "memory_bandwidth", "matmul_launch")
    rates = {name: ATLAS_800_A2.matmul_rates[name] for name in MATMULS.values()}
    return {name: getattr(ATLAS_800_A2, name) for name in names} | rates


if __name__ == "__main__":
    sys.exit(main())
