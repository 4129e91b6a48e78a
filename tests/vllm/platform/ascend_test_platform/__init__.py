"""A platform for tests: vLLM's CPU platform with what an Ascend platform plugs into vLLM."""

from __future__ import annotations

import gc
import os
from typing import Any


def activate() -> str | None:
    """The platform's class where the environment asks for it; vLLM then uses it for everything."""
    if os.environ.get("ASCEND_TEST_PLATFORM") == "1":
        return "ascend_test_platform.platform.AscendTestPlatform"
    return None


def without_amx() -> None:
    """Take AMX from this process: with it vLLM quantizes inside its int8 matmul, which no NPU does,
    so that the same test would see another graph on another CPU."""
    import torch

    torch.cpu._is_amx_tile_supported = lambda: False


def few_collections() -> None:
    """Leave vLLM's own garbage collections out where the environment asks for it.

    A small engine has ten, over all that its process imported: as long as all else that it does.
    """
    if os.environ.get("ASCEND_TEST_FEW_COLLECTIONS") == "1":
        gc.collect = lambda generation=2: 0


def local_experts() -> None:
    """Number experts as the kernel holds them: under expert parallelism vLLM 0.32 gives its CPU
    kernel the numbers of all ranks' experts, for which it reads behind the weights of this rank."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    original = CPUUnquantizedExperts.apply

    def apply(experts: Any, *given: Any, **named: Any) -> None:
        here = named.get("expert_map")
        if here is not None:
            chosen = here[named["topk_ids"].long()]
            weights = named["topk_weights"]
            named["topk_weights"] = weights.masked_fill(chosen < 0, 0)
            named["topk_ids"] = chosen.clamp(min=0).to(named["topk_ids"].dtype)
        original(experts, *given, **named)

    CPUUnquantizedExperts.apply = apply
