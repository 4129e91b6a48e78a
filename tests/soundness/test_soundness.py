"""The fixed cases, and a sample of all others that changes with the day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soundness.today import VARIABLE, seed_of_the_day

SEED = seed_of_the_day()
FIXED = ("past", "aliasing", "errors")
SAMPLES = {
    "weights": 12,
    "modules": 12,
    "plain": 12,
    "composed": 50,
    "backward": 12,
    "dynamic": 6,
    "refused": 6,
    "bfloat16": 8,
    "int64": 6,
    "bool": 10,
}
"""Cases of each sweep; all of it is to take less than 100 s of one core."""


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    import gc

    from tests.soundness.judge import warm_up

    warm_up()
    yield
    gc.unfreeze()


def judged(sweep: str, name: str, seed: int) -> str:
    """Nothing, or the faults of a case and how to see it alone."""
    from tests.soundness.__main__ import lines_of, summary
    from tests.soundness.judge import judge
    from tests.soundness.sweeps import named_cases

    case = named_cases(sweep)[name]
    verdict = judge(case, seed)
    if not verdict.faults:
        return ""
    facts = [line for fault in verdict.faults[:4] for line in lines_of(fault)]
    return "\n".join([*summary(case, seed, verdict), *facts, f"{VARIABLE}={seed}"])


@pytest.mark.parametrize("sweep", FIXED)
def test_the_fixed_cases(sweep):
    from tests.soundness.sweeps import named_cases

    assert not [text for name in named_cases(sweep) if (text := judged(sweep, name, 0))]


@pytest.mark.parametrize("sweep", SAMPLES)
def test_a_sample(sweep):
    from tests.soundness.case import generator
    from tests.soundness.sweeps import named_cases

    names = generator(SEED, sweep).sample(list(named_cases(sweep)), SAMPLES[sweep])
    assert not [text for name in names if (text := judged(sweep, name, SEED))]
