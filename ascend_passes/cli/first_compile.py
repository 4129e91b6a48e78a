"""For `bench compile`: a process that compiles a one-layer W8A8 model twice and says the times.

Nothing of the package that compiles is loaded before, so that its imports count.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from ascend_passes.models.build import small_model
from ascend_passes.models.quantize import quantize_model

TOKENS = 16


def main(backend: str) -> None:
    """Print the processor seconds of the first compilation and call, and of another one."""
    model = small_model("qwen3", torch.bfloat16, num_hidden_layers=1)
    ids = torch.arange(TOKENS)[None]
    quantize_model(model, "static", ids)
    with torch.no_grad():
        model(ids, use_cache=False)  # what the model itself loads at its first call is not ours
    gc.collect()
    gc.freeze()  # or a search through all that the model loaded falls to whom it happens to
    assert "ascend_passes.backend" not in sys.modules
    cold = processor_seconds(compile_and_call, model, ids, backend)
    torch._dynamo.reset()
    warm = processor_seconds(compile_and_call, model, ids, backend)
    print(json.dumps({"cold": cold, "warm": warm}))


def compile_and_call(model: Callable[..., Any], ids: torch.Tensor, backend: str) -> None:
    """Compile the model and run it once."""
    with torch.no_grad():
        torch.compile(model, backend=backend)(ids, use_cache=False)


def processor_seconds(function: Callable[..., None], *arguments: Any) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


if __name__ == "__main__":
    main(sys.argv[1])
