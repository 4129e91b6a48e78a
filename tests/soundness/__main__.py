"""Run the sweeps and print a table; see `docs/soundness.md`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.soundness import judge, table
from tests.soundness.case import Case, generator
from tests.soundness.judge import Fault, Verdict
from tests.soundness.pool import verdicts
from tests.soundness.sweeps import SWEEPS, named_cases

Found = dict[str, list[Verdict]]
SHOWN = 200
"""Characters of a value that are shown."""


def main() -> int:
    """0; 1 where a case has a fault."""
    options = parser().parse_args()
    warnings.simplefilter("ignore")
    if options.case:
        return show(options.case, options.seed)
    cases = chosen(options)
    earlier = dict(read(options.json, options.seed)) if options.resume else {}
    found: Found = {sweep: [] for sweep in SWEEPS}
    for name, verdict in earlier.items():
        found[name.partition("/")[0]].append(verdict)
    run([case for case in cases if str(case) not in earlier], options, found)
    print(table.text(table.rows(found)))
    print("\n".join(f"skipped: {reason}" for reason in table.reasons(found)))
    if options.write_docs:
        table.PAGE.write_text(table.page(found, options.seed))
    return int(any(v.faults for several in found.values() for v in several))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(prog="python -m tests.soundness", description=__doc__)
    made.add_argument(
        "--sweep", action="append", choices=list(SWEEPS), help="only this; repeatable"
    )
    made.add_argument("--op", help="only this operator, module or function")
    made.add_argument("--case", help='one case, "sweep/name", with all facts and a minimal file')
    made.add_argument("--seed", type=int, default=0, help="of samples and drawn programs")
    made.add_argument(
        "--limit", type=int, help="at most so many cases of each sweep, drawn by seed"
    )
    made.add_argument("--shard", default="1/1", help="the i-th of n parts, written i/n")
    made.add_argument("--jobs", type=int, default=1, help="worker processes")
    made.add_argument("--json", type=Path, help="append a JSON line for each case to this file")
    made.add_argument(
        "--resume", action="store_true", help="count and do not repeat what is in --json"
    )
    made.add_argument("--write-docs", action="store_true", help="write docs/soundness.md")
    return made


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the arguments ask for."""
    part, parts = map(int, options.shard.split("/"))
    cases: list[Case] = []
    for sweep in options.sweep or SWEEPS:
        listed = list(named_cases(sweep).values())
        if options.op:
            listed = [case for case in listed if case.name.split(" ")[0] == options.op]
        if options.limit is not None and len(listed) > options.limit:
            listed = generator(options.seed, sweep).sample(listed, options.limit)
        cases += listed
    return cases[part - 1 :: parts]


def run(cases: Sequence[Case], options: argparse.Namespace, found: Found) -> None:
    """Judge the cases; print each that has faults, and a line of progress."""
    start, faulty = time.time(), 0
    for done, (case, verdict) in enumerate(verdicts(cases, options.seed, options.jobs), 1):
        found[case.sweep].append(verdict)
        faulty += bool(verdict.faults)
        if options.json:
            write(options.json, case, options.seed, verdict)
        if verdict.faults:
            print("\n".join(summary(case, options.seed, verdict)), flush=True)
        spent = f"{time.time() - start:.0f} s"
        progress(f"{done} of {len(cases)}, {faulty} with faults, {spent}: {case}", done)
    progress("", 0)


def progress(text: str, done: int) -> None:
    """One line that is written over where somebody looks; else one for every hundred cases."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)
    elif done and done % 100 == 0:
        print(text, file=sys.stderr, flush=True)


def summary(case: Case, seed: int, verdict: Verdict) -> Iterator[str]:
    """Two lines on a case that failed: how, and how to see it alone."""
    kinds = ", ".join(dict.fromkeys(fault.kind for fault in verdict.faults))
    yield f"{case}: {kinds}"
    yield f"    python -m tests.soundness --seed {seed} --case {shlex.quote(str(case))}"


def show(name: str, seed: int) -> int:
    """Everything about one case, and a minimal file where it fails."""
    sweep, _, rest = name.partition("/")
    if rest not in named_cases(sweep):
        print(f"There is no case {rest!r} in {sweep!r}.", file=sys.stderr)
        return 2
    case = named_cases(sweep)[rest]
    judge.warm_up()
    verdict = judge.judge(case, seed)
    print(f"{case}: {verdict.skipped or len(verdict.faults)} faults, {verdict.shared} shared")
    print("\n".join(line for fault in verdict.faults for line in lines_of(fault)))
    if verdict.faults:
        with judge.stable():
            scenario = judge.built(case, seed)
        print(f"\n{judge.minimal(scenario, seed).source()}")
    return int(bool(verdict.faults))


def lines_of(fault: Fault) -> Iterator[str]:
    """A fact that differs."""
    yield f"  {fault.fact}"
    yield f"      ascend_dense: {fault.ours[:SHOWN]}"
    yield f"      aot_eager:    {fault.theirs[:SHOWN]}"


def write(path: Path, case: Case, seed: int, verdict: Verdict) -> None:
    """Append a verdict to a file."""
    line = {"sweep": case.sweep, "name": case.name, "seed": seed, **asdict(verdict)}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path | None, seed: int) -> Iterator[tuple[str, Verdict]]:
    """The verdicts of earlier runs with the same seed."""
    if path is None or not path.exists():
        return
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        name = f"{fields.pop('sweep')}/{fields.pop('name')}"
        if fields.pop("seed") == seed:
            faults = tuple(Fault(**fault) for fault in fields.pop("faults"))
            yield name, Verdict(faults, **fields)


if __name__ == "__main__":
    sys.exit(main())
