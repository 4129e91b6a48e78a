"""A platform for tests: vLLM's CPU platform with what an Ascend platform plugs into vLLM."""

from __future__ import annotations

import os


def activate() -> str | None:
    """The platform's class where the environment asks for it; vLLM then uses it for everything."""
    if os.environ.get("ASCEND_TEST_PLATFORM") == "1":
        return "ascend_test_platform.platform.AscendTestPlatform"
    return None
