"""A folder that vLLM finds the test platform in, as if that were an installed package."""

from __future__ import annotations

from pathlib import Path

ENTRY_POINTS = """\
[vllm.platform_plugins]
ascend_test_platform = ascend_test_platform:activate
[vllm.general_plugins]
without_amx = ascend_test_platform:without_amx
few_collections = ascend_test_platform:few_collections
local_experts = ascend_test_platform:local_experts
"""
SOURCE = Path(__file__).parent / "platform"
"""The folder of the package, which has to be on the path as well."""


def describe_platform(folder: Path) -> None:
    """Write what an installed package says of itself into a folder for PYTHONPATH."""
    information = folder / "ascend_test_platform-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ascend-test-platform\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
