"""A program from a seed."""

from __future__ import annotations

import contextlib
from random import Random

from torch import Tensor

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.options import drawn_options
from tests.fuzz.program import DTYPES, Call, Program
from tests.fuzz.rewrite import MANNERS
from tests.fuzz.vocabulary import VOCABULARY

STEPS = (2, 4, 6, 10)
"""How many operators are drawn; one may be a whole attention."""
RECIPES = ("normal",) * 8 + ("sparse", "sparse", "zeros")
LAYOUTS = ("dense",) * 6 + ("transposed", "sliced", "expanded")
RESULTS = (
    ("clone", "{r0} = {0}.clone()"),
    ("view", "{r0} = {0}.view({0}.shape)"),
    ("view", "{r0} = {0}[..., :1]"),
    ("copy", "{r0} = {0} * 1"),
    ("copy", "{r0} = {0}.detach()"),
    ("size", "{r0} = {0}.shape[0]"),
)


def sizes_of(random: Random, changing: bool, calls: int) -> list[dict[str, int]]:
    """Sizes of each call: of two kinds where they change, since each kind may be a compile."""

    def one() -> dict[str, int]:
        batch = random.choice((1, 1, 2, 2, 3, 0) if random.random() < 0.15 else (1, 2, 2, 3))
        length = random.choice((0, 1) if random.random() < 0.1 else (1, 1, 2, 3, 5, 8))
        return {"B": batch, "S": length, "T": batch * length}

    first = one()
    other = one() if changing else first
    return [first, *(random.choice((first, other, other)) for _ in range(calls - 1))]


def generate(seed: int) -> Program:
    """The program of a seed; the same on every machine with the same torch."""
    random = Random(seed)
    dtype = random.choice((*DTYPES, "bfloat16"))
    options = drawn_options(random)
    dynamic = random.choice((None, None, None, False, False, True))
    captured = dict(options).get("cudagraph_mode", "NONE") != "NONE"
    calls = random.choice((3, 4) if captured else (2, 3))
    sizes = sizes_of(random, random.random() < 0.5, calls)
    distinct = {tuple(one.items()): one for one in sizes}
    draw = Draw(seed, dtype, list(distinct.values()))
    start(draw)
    operators, weights = list(VOCABULARY), list(VOCABULARY.values())
    for operator in draw.random.choices(operators, weights, k=draw.one_of(*STEPS)):
        with contextlib.suppress(Nothing):
            operator(draw)
    results = tuple(results_of(draw))
    return Program(
        tuple(draw.given),
        tuple(draw.steps),
        results,
        tuple(calls_of(draw, random, sizes)),
        dtype,
        options,
        dynamic,
        write_results=random.random() < 0.35,
        poison=random.random() < 0.5,
        inference=random.random() < 0.1,
        seed=seed,
    )


def start(draw: Draw) -> None:
    """The inputs that every program has: rows, and often a second stream of them."""
    recipe = draw.one_of(*RECIPES)
    for _ in range(draw.one_of(1, 2, 2)):
        shape = draw.one_of(("B", "S", draw.width), ("B", "S", draw.width), ("T", draw.width))
        draw.give("input", shape, recipe, layout=draw.one_of(*LAYOUTS))


def results_of(draw: Draw) -> list[str]:
    """What the program returns: the last values, some others, and some twice."""
    tensors = [name for name in draw.names if isinstance(draw.value(name), Tensor)]
    computed = [name for name in tensors if name.startswith("v")] or tensors
    count = min(len(computed), draw.one_of(1, 1, 2, 3, 4))
    chosen = [computed[-1], *draw.random.sample(computed, count - 1 if count > 1 else 0)]
    if draw.chance(0.15):
        chosen.append(draw.random.choice(tensors))
    if draw.chance(0.1):
        chosen.append(draw.random.choice(chosen))
    for _ in range(2):
        if draw.chance(0.2):
            name, text = draw.one_of(*RESULTS)
            with contextlib.suppress(Nothing):
                chosen += draw.emit(f"result_{name}", text, draw.random.choice(chosen))
    draw.random.shuffle(chosen)
    return chosen


def calls_of(draw: Draw, random: Random, sizes: list[dict[str, int]]) -> list[Call]:
    """The calls; between some of them parameters are written, in 30 % of the programs."""
    state = [one.name for one in draw.given if one.role in ("parameter", "buffer") and not one.same]
    written = bool(state) and random.random() < 0.3
    calls = []
    for index, one in enumerate(sizes):
        rewrite, names = "", ()
        if written and index and random.random() < 0.7:
            rewrite = random.choice(MANNERS)
            names = tuple(state) if random.random() < 0.4 else (random.choice(state),)
        calls.append(Call(random.randrange(2**30), tuple(one.items()), rewrite, names))
    return calls
