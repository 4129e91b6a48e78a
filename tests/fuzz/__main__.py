"""`python -m tests.fuzz`: many random programs, a table, and each wrong one made small."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ascend_passes.compile.stages import STAGES
from ascend_passes.options.value import Options, parse
from tests.fuzz.check import GENERATOR, REFUSED, RIGHT, TORCH, UNJUDGED, WRONG, check
from tests.fuzz.generate import generate
from tests.fuzz.minimize import minimize
from tests.fuzz.options import rule_names
from tests.fuzz.printing import printed
from tests.fuzz.program import source
from tests.fuzz.workers import EXACT_SHARE, Tally, spread

ONLY_WITH_RANKS = ("sequence_parallel", "matmul_collective")
ONLY_WITH_VLLM = ("vllm_operators",)
CONSTANTS = ("fold_constants", "merge_equal")
"""Stages that fire on graphs with collectives, or with vLLM's operators: other tests have those.
`CONSTANTS` are looked for as well, wherever they stand in the pipeline."""


def arguments() -> argparse.Namespace:
    """What the command is told."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first program's seed")
    parser.add_argument("--count", type=int, default=200, help="how many programs")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--show", action="store_true", help="print the programs, run nothing")
    parser.add_argument(
        "--minimize", type=int, default=8, metavar="N", help="make N wrong ones small"
    )
    parser.add_argument(
        "--log", type=Path, help="keep each verdict here, and go on where the last run ended"
    )
    parser.add_argument("--out", type=Path, help="folder for the wrong ones, as Python files")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="for every program"
    )
    return parser.parse_args()


def options_of(words: list[str]) -> dict[str, Any]:
    """Options beside the drawn ones, from `NAME=VALUE`."""
    known = Options.__dataclass_fields__
    pairs = (word.split("=", 1) for word in words)
    return {name: parse(known[name], text, name) for name, text in pairs}


def seeds(first: int, count: int, minutes: float, done: set[int]) -> Iterator[int]:
    """The seeds that are not done, until their number or the time is over."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    for seed in range(first, first + count):
        if time.monotonic() > end:
            return
        if seed not in done:
            yield seed


def table(tally: Tally, now: int, seconds: float) -> str:
    """Counts of verdicts and of what fired, and what never did; `now` programs took the time."""
    total = sum(tally.kinds.values())
    names = {
        RIGHT: "right",
        WRONG: "wrong",
        TORCH: "aot_eager differs from eager alike",
        REFUSED: "refused by strict",
        UNJUDGED: "without a reference in float64",
        GENERATOR: "generator errors",
    }
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    each = (used.ru_utime + used.ru_stime) / max(now, 1)
    lines = [f"{now} programs in {seconds:.0f} s, {each:.2f} s of one core each"]
    lines += [f"{total} programs in all"] if total > now else []
    lines += [f"  {tally.kinds[kind]:6d} {name}" for kind, name in names.items()]
    fired = sorted(tally.fired.items(), key=lambda item: -item[1])
    lines += ["fired: " + ", ".join(f"{name} {count}" for name, count in fired)]
    skipped = {*ONLY_WITH_RANKS, *ONLY_WITH_VLLM, "recognize", "fuse"}
    wanted = {*rule_names(), *(stage.name for stage in STAGES), *CONSTANTS} - skipped
    never = sorted(name for name in wanted if not fired_as(name, tally))
    lines += ["never fired: " + (", ".join(never) or "none")]
    lines += [f"not looked for: {', '.join(sorted(skipped))}"]
    return "\n".join(lines)


def fired_as(name: str, tally: Tally) -> bool:
    """Whether a rule or a pass fired; a pass may count each operator under its own name."""
    if name == "quantized_decomposed":
        return any(one.startswith(name) for one in tally.fired)
    return name in tally.fired


def main() -> int:
    """Run; 1 where a program was wrong or could not be made."""
    given = arguments()
    more = options_of(given.option)
    if given.show:
        for seed in range(given.seed, given.seed + given.count):
            print(source(generate(seed)))
        return 0
    start = last = time.monotonic()

    def tell(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last > 30:
            last = time.monotonic()
            total = sum(tally.kinds.values())
            print(f"{total} programs, {dict(tally.kinds)}", file=sys.stderr, flush=True)

    tally = Tally.of(given.log)
    before = len(tally.seeds)
    wanted = seeds(given.seed, given.count, given.minutes, set(tally.seeds))
    spread(wanted, given.jobs, more, tell, tally)
    print(table(tally, len(tally.seeds) - before, time.monotonic() - start))
    for seed, verdict in tally.told:
        print(f"seed {seed}: {verdict.kind} {sorted(verdict.keys)}")
        for line in verdict.lines[:4]:
            print(f"    {line[:400]}")
    wrong = [(seed, verdict) for seed, verdict in tally.told if verdict.kind == WRONG]
    for seed, _ in wrong[: given.minimize]:
        tell_small(seed, more, given.out)
    return 1 if wrong or tally.kinds[GENERATOR] else 0


def tell_small(seed: int, more: dict[str, Any], out: Path | None) -> None:
    """Print a wrong program, made small, as Python; write it to a folder as well."""
    program = generate(seed)
    verdict = check(program, seed % EXACT_SHARE == 0, more)
    if verdict.kind != WRONG:
        print(f"# seed {seed}: {verdict.kind} when run again, alone")
        return
    small = minimize(program, verdict)
    text = printed(small)
    print(f"# seed {seed}, {sorted(verdict.keys)}\n{text}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"seed_{seed}.py").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
