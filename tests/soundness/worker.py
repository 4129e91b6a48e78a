"""A process that judges the cases it is told on its standard input, one JSON line each.

It answers with lines as well: which backend runs next, then the verdict.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import warnings
from dataclasses import asdict
from typing import Any

from tests.soundness.judge import Fault, Verdict, judge, warm_up
from tests.soundness.sweeps import named_cases


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what cases print is no answer
    warnings.simplefilter("ignore")

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    warm_up()
    answer(ready=True)
    for line in sys.stdin:
        told = json.loads(line)
        case = named_cases(told["sweep"])[told["name"]]
        verdict = judged(case, told["seed"], lambda backend: answer(begins=backend))
        answer(verdict=asdict(verdict), memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def judged(case: Any, seed: int, begin: Any) -> Verdict:
    """The verdict; an error of the harness itself is a fault, so that it is seen."""
    try:
        return judge(case, seed, begin)
    except Exception:
        text = traceback.format_exc(limit=-3)
        return Verdict((Fault("the harness raises", text, ""),))


if __name__ == "__main__":
    main()
