"""Every fault of one rank, in real processes: `python -m tests.distributed.faults [WORD]`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases import CASES, fault_of
from processes import run

WIDTH = 200


def main(word: str = "") -> int:
    wrong = 0
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
    print(f"{len(chosen) - wrong} of {len(chosen)} faults end as they must")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
