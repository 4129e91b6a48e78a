"""The seed of the day."""

from __future__ import annotations

import datetime
import os

VARIABLE = "ASCEND_PASSES_TEST_SEED"


def seed_of_the_day() -> int:
    """The number of the day, or what the environment variable says."""
    given = os.environ.get(VARIABLE)
    return int(given) if given else datetime.datetime.now(datetime.UTC).date().toordinal()
