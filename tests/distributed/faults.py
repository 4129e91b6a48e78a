"""Every fault of one rank, in real processes: `python -m tests.distributed.faults [WORD]`.

The table in the end tells how long after the first rank the last one met the fault; what a rank
computes until then, such as its own compilation on a busy machine, is part of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases import CASES, fault_of
from processes import run

WIDTH = 200


def main(word: str = "") -> int:
    wrong = 0
    table: list[str] = []
    chosen = {name: case for name, case in CASES.items() if word in name}
    for name, case in chosen.items():
        ends = run(case.run, len(case.ends), *case.arguments)
        fault = fault_of(case, [end.told for end in ends])
        wrong += bool(fault)
        print(f"{'WRONG' if fault else 'right'}  {name}")
        for rank, end in enumerate(ends):
            told = " ".join(str(end.told).split()).encode("ascii", "backslashreplace").decode()
            print(f"       rank {rank} after {end.seconds:.1f} s: {told[:WIDTH]}", flush=True)
        if fault:
            print(fault)
        heard = [end.heard for end in ends]
        longest = max(end.seconds for end in ends)
        table.append(f"{max(heard) - min(heard):10.1f}{longest:10.1f}  {name}")
    print("  until the last rank knew, and until it ended, in seconds", *table, sep="\n")
    print(f"{len(chosen) - wrong} of {len(chosen)} faults end as they must")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
