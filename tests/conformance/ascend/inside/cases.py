"""The forms of our kernels that are compiled, with fresh inputs and float64's results for each.

Bounds are those that the operators state (`docs/accuracy.md`): units in the last place of the
result's dtype at the float64 value, or steps of int8 from the float64 value before it is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BF16, F16, F32, I8 = "bf16", "fp16", "fp32", "i8"
MANTISSA = {BF16: 7, F16: 10, F32: 23}
SMALLEST = {BF16: -126, F16: -14, F32: -126}
"""Exponents of the smallest normal numbers: below them the units stay as they are there."""
ONE_ROUNDING, TWO_ROUNDINGS, NEAREST = 0.51, 1.51, 0.501
DYNAMIC = 2.0**-20
"""float32's relative error of a row before its largest value becomes the scale."""
FLOAT16_ROUNDINGS = 3 * 2.0**-11
EPSILON = 1e-6
ROWS = 48


def stored(values: Any, kind: str) -> np.ndarray:
    """float64 rounded to a dtype; bfloat16 as its bits."""
    if kind != BF16:
        return np.asarray(values).astype({F16: np.float16, F32: np.float32}[kind])
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def wide(array: np.ndarray) -> np.ndarray:
    """float64 of what a tensor holds."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def unit(values: np.ndarray, kind: str) -> np.ndarray:
    """One in the last place of each value."""
    _, exponent = np.frexp(np.maximum(np.abs(values), 2.0 ** SMALLEST[kind]))
    return np.asarray(np.ldexp(1.0, exponent - 1 - MANTISSA[kind]))


def ulps(found: np.ndarray, exact: np.ndarray, kind: str, absolute: float = 0.0) -> float:
    """Largest distance in units in the last place at the exact value, beyond `absolute`."""
    distance = np.maximum(np.abs(wide(found) - exact) - absolute, 0)
    return float((distance / unit(exact, kind)).max())


def steps(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest distance of int8 from the exact value, clamped."""
    return float(np.abs(found.astype(np.float64) - np.clip(exact, -128, 127)).max())


@dataclass
class Drawn:
    """One call: the kernel's arguments, and what each result is off by against its bound."""

    arguments: list[Any]
    errors: Callable[[], dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class Case:
    """One compiled form of a kernel."""

    file: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    draw: Callable[[np.random.Generator, dict[str, Any]], Drawn] | None
    """None where it is compiled alone: a matmul's cube has no model here."""
    grid: int = 24
    notes: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def pointers(names: str, kind: str, **others: str) -> dict[str, str]:
    """A signature: pointers to one dtype, and the rest as given."""
    return {**{name: f"*{kind}" for name in names.split()}, **others}


def normal(rng: np.random.Generator, kind: str, *shape: int, spread: float = 2.0) -> np.ndarray:
    """Random values in a dtype."""
    return stored(rng.normal(0, spread, shape), kind)


def gain(rng: np.random.Generator, kind: str, width: int) -> np.ndarray:
    """Random values around one."""
    return stored(rng.normal(1, 0.2, width), kind)


def blank(kind: str, *shape: int) -> np.ndarray:
    """A result that is not written yet: every bit set."""
    dtype = {BF16: np.uint16, F16: np.float16, F32: np.float32, I8: np.int8}[kind]
    return (
        np.full(np.prod(shape) * np.dtype(dtype).itemsize, 0xFF, np.uint8)
        .view(dtype)
        .reshape(shape)
    )


def norm64(values: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """RMSNorm in float64."""
    return values / np.sqrt((values**2).mean(1, keepdims=True) + EPSILON) * gamma


def norm(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `norm_rows`."""
    kind, width, add = form["kind"], form["WIDTH"], form["ADD"]
    x, residual = (normal(rng, kind, ROWS, width) for _ in range(2))
    gamma = gain(rng, form.get("gamma", kind), width)
    y, rstd = blank(kind, ROWS, width), blank(F32, ROWS)
    total = blank(kind, ROWS, width) if add else x

    def errors() -> dict[str, tuple[float, float]]:
        added = wide(x) + wide(residual) if add else wide(x)
        summed = wide(stored(added, kind))
        factor = wide(gamma) + form["ONE_PLUS"]
        root = 1 / np.sqrt((summed**2).mean(1) + EPSILON)
        bound = TWO_ROUNDINGS if form["SAME"] else ONE_ROUNDING
        return {
            "sum": (ulps(total, added, kind), 0.5),
            "y": (ulps(y, norm64(summed, factor), kind), bound),
            "rstd": (ulps(rstd, root, F32), 6.0),
        }

    return Drawn([x, residual, gamma, y, rstd, total, ROWS, EPSILON], errors)


def before_quantize(
    rng: np.random.Generator, form: dict[str, Any]
) -> tuple[list[np.ndarray], np.ndarray, Callable[[], np.ndarray]]:
    """x, residual, gamma and beta; the sum, blank; and float64 of what the quantize sees."""
    kind, width = form["kind"], form["WIDTH"]
    x, residual = (normal(rng, kind, ROWS, width) for _ in range(2))
    gamma, beta = gain(rng, kind, width), normal(rng, kind, width, spread=0.5)
    total = blank(kind, ROWS, width)

    def exact() -> np.ndarray:
        summed = wide(stored(wide(x) + wide(residual), kind))
        return norm64(summed, wide(gamma)) + (wide(beta) if form["SHIFT"] else 0)

    return [x, residual, gamma, beta], total, exact


def norm_static(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `norm_rows_static`."""
    kind, width, count = form["kind"], form["WIDTH"], form["SCALES"]
    inputs, total, exact = before_quantize(rng, form)
    size = 0.03 if form["DIVIDE"] else 30.0
    scale = stored(size * rng.uniform(0.5, 1.5, count), kind)
    zero = stored(rng.integers(-20, 20, count), kind)
    y = blank(I8, ROWS, width)

    def errors() -> dict[str, tuple[float, float]]:
        factor = 1 / wide(scale) if form["DIVIDE"] else wide(scale)
        values = exact()
        slack = FLOAT16_ROUNDINGS * np.abs(values * factor).max() if kind == F16 else 0.0
        return {"y": (steps(y, values * factor + wide(zero)), NEAREST + slack)}

    return Drawn([*inputs, scale, zero, y, total, ROWS, EPSILON], errors)


def dynamic_errors(
    y: np.ndarray, scale: np.ndarray, values: np.ndarray, slack: float
) -> dict[str, tuple[float, float]]:
    """Of int8 rows and their scales, whose values are off by `slack` of a row's largest."""
    one = np.abs(values).max(1) / 127
    return {
        "scale": (float(np.abs(wide(scale) / one - 1).max()), slack),
        "y": (steps(y, values / one[:, None]), NEAREST + 127 * slack),
    }


def norm_dynamic(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `norm_rows_dynamic`."""
    kind, width = form["kind"], form["WIDTH"]
    inputs, total, exact = before_quantize(rng, form)
    smooth = gain(rng, kind, width)
    y, scale = blank(I8, ROWS, width), blank(F32, ROWS)

    def errors() -> dict[str, tuple[float, float]]:
        values = exact() * (wide(smooth) if form["SMOOTH"] else 1)
        slack = 1.1 * FLOAT16_ROUNDINGS if kind == F16 else DYNAMIC
        return dynamic_errors(y, scale, values, slack)

    return Drawn([*inputs, smooth, y, scale, total, ROWS, EPSILON], errors)


def quantize(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `quantize_rows`; one row is zero."""
    kind, width = form["kind"], form["WIDTH"]
    x, smooth = normal(rng, kind, ROWS, width), gain(rng, kind, width)
    y, scale = blank(I8, ROWS, width), blank(F32, ROWS)
    x[5] = 0

    def errors() -> dict[str, tuple[float, float]]:
        values = wide(x) * (wide(smooth) if form["SMOOTH"] else 1)
        others = np.arange(ROWS) != 5
        zero = float(np.abs(y[5]).max() + abs(scale[5]))
        found = dynamic_errors(y[others], scale[others], values[others], 2 * 2.0**-23)
        return {**found, "zero row": (zero, 0.0)}

    return Drawn([x, smooth, y, scale, ROWS], errors)


def gated64(x: np.ndarray, left: bool) -> np.ndarray:
    """SwiGLU in float64."""
    first, second = np.split(wide(x), 2, axis=1)
    gate, up = (first, second) if left else (second, first)
    return gate / (1 + np.exp(-gate)) * up


def swiglu(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `swiglu_rows`."""
    x = normal(rng, form["kind"], ROWS, 2 * form["WIDTH"])
    y = blank(form["kind"], ROWS, form["WIDTH"])

    def errors() -> dict[str, tuple[float, float]]:
        return {"y": (ulps(y, gated64(x, True), form["kind"]), ONE_ROUNDING)}

    return Drawn([x, y, ROWS], errors)


def nearer(found: np.ndarray, exact: np.ndarray, kind: str) -> np.ndarray:
    """The exact values rounded to a dtype, the other way where float32 may have been on the other
    side of a tie and what was found is nearer."""
    low, high = (wide(stored(exact * (1 + side * DYNAMIC), kind)) for side in (-1, 1))
    return np.where(np.abs(found - low) <= np.abs(found - high), low, high)


def swiglu_dynamic(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `swiglu_rows_dynamic`."""
    width = form["WIDTH"]
    x, smooth = normal(rng, form["kind"], ROWS, 2 * width), gain(rng, F32, width)
    y, scale = blank(I8, ROWS, width), blank(F32, ROWS)

    def errors() -> dict[str, tuple[float, float]]:
        values = gated64(x, form["LEFT"]) * (wide(smooth) if form["SMOOTH"] else 1)
        if form["ROUNDED"]:
            values = nearer(y * wide(scale)[:, None], values, form["kind"])
        return dynamic_errors(y, scale, values, DYNAMIC)

    return Drawn([x, smooth, y, scale, ROWS], errors)


def swiglu_static(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `swiglu_rows_static`."""
    width, count = form["WIDTH"], form["SCALES"]
    x, y = normal(rng, form["kind"], ROWS, 2 * width), blank(I8, ROWS, width)
    scale = stored(20 * rng.uniform(0.5, 1.5, count), F32)
    zero = stored(rng.integers(-20, 20, count), F32)

    def errors() -> dict[str, tuple[float, float]]:
        exact = gated64(x, form["LEFT"]) * wide(scale) + wide(zero)
        return {"y": (steps(y, exact), NEAREST)}

    return Drawn([x, scale, zero, y, ROWS], errors)


def rotary(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `rotary_heads`."""
    kind, heads, size = form["kind"], form["HEADS"], form["SIZE"]
    x = stored(np.clip(rng.normal(0, 2, (ROWS, heads, size)), -8, 8), kind)
    angle = rng.uniform(0, 6, (ROWS, size))
    cos, sin = stored(np.cos(angle), kind), stored(np.sin(angle), kind)
    y = blank(kind, ROWS, heads, size)

    def errors() -> dict[str, tuple[float, float]]:
        values = wide(x)
        first, second = np.split(values, 2, axis=2)
        turned = np.concatenate([-second, first], axis=2)
        if form["INTERLEAVED"]:
            turned = np.stack([-values[..., 1::2], values[..., ::2]], -1).reshape(values.shape)
        exact = values * wide(cos)[:, None] + turned * wide(sin)[:, None]
        return {"y": (ulps(y, exact, kind, DYNAMIC), 0.5)}

    return Drawn([x, cos, sin, y, ROWS], errors)


def packed_heads(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `packed_heads`, whose tokens share the rows of the tables."""
    kind, size, counts = form["kind"], form["SIZE"], (form["QUERIES"], form["KEYS"])
    rows = ROWS // 2
    qkv = normal(rng, kind, ROWS, form["WIDTH"])
    gains = [gain(rng, kind, size) for _ in counts]
    angle = rng.uniform(0, 6, (rows, size))
    cos, sin = stored(np.cos(angle), kind), stored(np.sin(angle), kind)
    found = [blank(kind, ROWS, count, size) for count in counts]

    def errors() -> dict[str, tuple[float, float]]:
        taken = wide(qkv)[:, : sum(counts) * size].reshape(ROWS, -1, size)
        parts = np.split(taken, counts[:1], axis=1)
        tables = [np.tile(wide(table), (ROWS // rows, 1))[:, None] for table in (cos, sin)]
        both = zip(("query", "key"), found, parts, gains, strict=True)
        return {name: turned_error(y, x, wide(g), *tables, kind) for name, y, x, g in both}

    return Drawn([qkv, *gains, cos, sin, *found, ROWS, rows, EPSILON], errors)


def turned_error(
    y: np.ndarray, x: np.ndarray, gamma: np.ndarray, cos: np.ndarray, sin: np.ndarray, kind: str
) -> tuple[float, float]:
    """The largest error of a normalized, rotated head as a share of what is allowed.

    That is what cosine and sine let through of the roundings of both columns of a pair, and half a
    unit at the largest value that this makes of the result.
    """
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gamma

    def other(values: np.ndarray, sign: int) -> np.ndarray:
        first, second = np.split(values, 2, axis=-1)
        return np.concatenate([sign * second, first], axis=-1)

    exact = normed * cos + other(normed, -1) * sin
    slack = TWO_ROUNDINGS * unit(normed, kind)
    through = slack * np.abs(cos) + other(slack, 1) * np.abs(sin)
    allowed = 0.5 * unit(np.abs(exact) + through, kind) + through + DYNAMIC
    return float((np.abs(wide(y) - exact) / allowed).max()), 1.0


def matmul_sum(rng: np.random.Generator, form: dict[str, Any]) -> Drawn:
    """Of `int8_matmul_sum`, whose grid is two-dimensional on a GPU: here one row."""
    width, split = form["width"], form["SPLIT"]
    parts = rng.integers(-(2**24), 2**24, (split, 1, width)).astype(np.int32)
    scale = stored(rng.uniform(0.5, 1.5, width) / 2**20, F32)
    row = stored(rng.uniform(0.5, 1.5, 1), F32)
    out = blank(BF16, 1, width)

    def errors() -> dict[str, tuple[float, float]]:
        exact = wide(parts).sum(0) * wide(scale) * wide(row)
        return {"out": (ulps(out, exact, BF16), ONE_ROUNDING)}

    return Drawn([parts, scale, row, scale, out, 1, width], errors)


def norm_case(kind: str, width: int, gamma: str = "", **flags: bool) -> Case:
    """A form of `norm_rows`."""
    signature = pointers("x residual", kind, gamma=f"*{gamma or kind}", y=f"*{kind}", rstd="*fp32")
    signature |= {"total": f"*{kind}", "rows": "i32", "epsilon": "fp32"}
    constants = {"WIDTH": width, "BLOCK": width, "ADD": True, "ONE_PLUS": False, "SAME": True}
    extra = {"kind": kind, **({"gamma": gamma} if gamma else {})}
    return Case("norm_rows", "norm_rows", signature, {**constants, **flags}, norm, extra=extra)


def static_case(kind: str, width: int, scales: int, divide: bool, shift: bool) -> Case:
    """A form of `norm_rows_static`."""
    signature = pointers("x residual gamma beta scale zero_point", kind, y="*i8")
    signature |= {"total": f"*{kind}", "rows": "i32", "epsilon": "fp32"}
    constants = {"WIDTH": width, "BLOCK": width, "ADD": True, "SHIFT": shift}
    constants |= {"ROUNDED": kind == F16, "DIVIDE": divide, "ZERO": True, "SCALES": scales}
    extra = {"kind": kind}
    return Case("norm_rows", "norm_rows_static", signature, constants, norm_static, extra=extra)


def dynamic_case(kind: str, width: int, shift: bool, smooth: bool) -> Case:
    """A form of `norm_rows_dynamic`."""
    signature = pointers("x residual gamma beta smooth", kind, y="*i8", scale="*fp32")
    signature |= {"total": f"*{kind}", "rows": "i32", "epsilon": "fp32"}
    constants = {"WIDTH": width, "BLOCK": width, "ADD": True, "SHIFT": shift}
    constants |= {"ROUNDED": kind == F16, "SMOOTH": smooth}
    extra = {"kind": kind}
    return Case("norm_rows", "norm_rows_dynamic", signature, constants, norm_dynamic, extra=extra)


def quantize_case(width: int, block: int, smooth: bool) -> Case:
    """A form of `quantize_rows`."""
    signature = pointers("x smooth", BF16, y="*i8", scale="*fp32", rows="i32")
    constants = {"WIDTH": width, "BLOCK": block, "SMOOTH": smooth}
    extra = {"kind": BF16}
    return Case("quantize_rows", "quantize_rows", signature, constants, quantize, extra=extra)


def swiglu_cases() -> dict[str, Case]:
    """The three kernels."""
    extra, file, size = {"kind": BF16}, "swiglu_rows", {"WIDTH": 25600, "BLOCK": 5120}
    plain = pointers("x y", BF16, rows="i32")
    rows = {"smooth": "*fp32", "y": "*i8", "scale": "*fp32", "rows": "i32"}
    given = {"scale": "*fp32", "zero_point": "*fp32", "y": "*i8", "rows": "i32"}
    x = {"x": "*bf16"}
    dynamic = {**size, "LEFT": True, "SMOOTH": False, "ROUNDED": False}
    held = {**dynamic, "WIDTH": 5120, "ROUNDED": True}
    static = {**size, "LEFT": False, "ZERO": True, "SCALES": 1}
    return {
        "swiglu": Case(file, "swiglu_rows", plain, size, swiglu, extra=extra),
        "swiglu, per token": Case(
            file, "swiglu_rows_dynamic", x | rows, dynamic, swiglu_dynamic, extra=extra
        ),
        "swiglu, rounded, per token, in one block": Case(
            file, "swiglu_rows_dynamic", x | rows, held, swiglu_dynamic, extra=extra
        ),
        "swiglu, one scale": Case(
            file, "swiglu_rows_static", x | given, static, swiglu_static, extra=extra
        ),
    }


def rotary_case(interleaved: bool) -> Case:
    """A form of `rotary_heads`."""
    signature = pointers("x cos sin y", BF16, tokens="i32")
    constants = {"HEADS": 8, "SIZE": 128, "BLOCK": 8, "INTERLEAVED": interleaved}
    extra = {"kind": BF16}
    return Case("rotary_heads", "rotary_heads", signature, constants, rotary, extra=extra)


def packed_case(queries: int, keys: int) -> Case:
    """A form of `packed_heads`; values stand behind the keys."""
    signature = pointers("qkv query_gain key_gain cos sin query key", BF16)
    signature |= {"tokens": "i32", "table_rows": "i32", "epsilon": "fp32"}
    constants = {"WIDTH": (queries + 2 * keys) * 128, "QUERIES": queries, "KEYS": keys}
    constants |= {"SIZE": 128, "BLOCK": min(8, keys), "SAME_QUERY": True, "SAME_KEY": True}
    extra = {"kind": BF16}
    return Case("packed_heads", "packed_heads", signature, constants, packed_heads, extra=extra)


def matmul_cases() -> dict[str, Case]:
    """The products, compiled alone, and the sum of the parts of one."""
    file, ints = "int8_matmul", {"rows": "i32", "width": "i32", "depth": "i32"}
    scales = {"scale": "*fp32", "row_scales": "*fp32", "bias": "*fp32", "out": "*bf16"}
    factors, parts = {"x": "*i8", "w": "*i8"}, {"parts": "*i32"}
    flags = {"SCALES": 5120, "WORDS": False, "ROWS": True, "BIAS": 0}
    tile = {"BM": 64, "BN": 128, "BK": 128}
    few = {**flags, **tile, "BM": 16, "SPLIT": 1, "EVEN": True, "TURNED": False}
    adding = {**flags, "SPLIT": 4, "BLOCK": 1024}
    summed = {**parts, **scales, "rows": "i32", "width": "i32"}
    alone = "compiled alone: the cube has no model on a CPU"
    return {
        "int8 matmul": Case(
            file, "int8_matmul", factors | scales | ints,
            {**flags, **tile, "GROUP": 1, "EVEN": True}, None, notes=alone,
        ),
        "int8 matmul of few rows": Case(
            file, "int8_matmul_few", factors | scales | parts | ints, few, None, notes=alone
        ),
        "sum of a split product": Case(
            file, "int8_matmul_sum", summed, adding, matmul_sum, grid=1, extra={"width": 1024}
        ),
    }  # fmt: skip


CASES: dict[str, Case] = {
    "add + RMSNorm": norm_case(BF16, 5120),
    "add + RMSNorm, float16": norm_case(F16, 5120),
    "RMSNorm of heads": norm_case(BF16, 128, ADD=False),
    "RMSNorm, float32 gain": norm_case(BF16, 5120, gamma=F32, ADD=False, SAME=False),
    "Gemma's add + RMSNorm": norm_case(BF16, 3584, ONE_PLUS=True, SAME=False),
    "add + RMSNorm + quantize, one scale": static_case(BF16, 5120, 1, True, False),
    "add + RMSNorm + quantize, float16, a scale a column": static_case(
        F16, 4096, 4096, False, True
    ),
    "add + RMSNorm + quantize per token": dynamic_case(BF16, 5120, False, False),
    "add + RMSNorm + quantize per token, float16, smoothed": dynamic_case(F16, 4096, True, True),
    "quantize per token": quantize_case(5120, 5120, False),
    "quantize per token, smoothed, in blocks": quantize_case(25600, 5120, True),
    **swiglu_cases(),
    "rotary, half": rotary_case(False),
    "rotary, interleaved": rotary_case(True),
    "norm + rotary of packed heads": packed_case(16, 8),
    "norm + rotary of packed heads, one key head": packed_case(8, 1),
    **matmul_cases(),
}
"""Name -> form."""
TOO_BIG = quantize_case(25600, 25600, False)
"""A block that the unified buffer cannot hold."""
