"""Runs engines of vllm-ascend on the stand-in, one after another: as `tests/vllm/session.py`.

A program of the tests; it runs in the environment of the pair, once for each rank.
"""

from __future__ import annotations

import functools
import gc
import os
from typing import Any

from tests.conformance.inside.replay import Recorder
from tests.pairs.inside import device
from tests.vllm import session


def run(recorder: Recorder, case: dict[str, Any]) -> dict[str, Any]:
    """A case, and how often its captured graphs were replayed and their attention told lengths."""
    replays, updates = recorder.replays, recorder.updates
    forget_engine()
    os.environ["MASTER_PORT"] = case["port"]
    result = session.run(case)
    after = {"replays": recorder.replays - replays, "updates": recorder.updates - updates}
    return {**result, **after}


def forget_engine() -> None:
    """Have vllm-ascend settle anew what it settles once in a process: there it has one engine."""
    from vllm.platforms import current_platform
    from vllm_ascend import ascend_config, utils
    from vllm_ascend.compilation import acl_graph

    ascend_config.clear_ascend_config()
    acl_graph._graph_params = None
    type(current_platform)._global_graph_pool = None  # its graphs are gone, and it with them
    utils._ENABLE_SP = utils._WEIGHT_PREFETCH_METHOD = None


if __name__ == "__main__":
    gc.collect = lambda generation=2: 0  # vLLM's own, as `few_collections` of the test platform
    session.main(functools.partial(run, device.install()))
