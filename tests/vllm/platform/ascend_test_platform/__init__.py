"""A platform for tests: vLLM's CPU platform with what an Ascend platform plugs into vLLM."""

from __future__ import annotations

import os


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
