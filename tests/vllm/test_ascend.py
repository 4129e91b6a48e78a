"""The wiring for vllm-ascend, against its released package.

Its pass manager runs here. Its compiler and its platform import torch_npu when they are loaded, and
its operators need CANN, so that a model under vllm-ascend runs on an NPU only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = "vllm-ascend==0.23.0"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files, without its dependencies and without installing it."""
    folder = tmp_path_factory.mktemp("vllm_ascend")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    only = ["--only-binary", ":all:", "--platform", "manylinux_2_34_x86_64"]
    subprocess.run([*download, *only, "--dest", str(folder), PACKAGE], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_our_pass_in_its_pass_manager(
    package: Path, python: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [str(python), str(HERE / "ascend_manager.py")],
        env={**environment, "PYTHONPATH": str(package), "VLLM_PLUGINS": "none"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["fired"]["add_rms_norm_dynamic_quant"] == 1
    assert result["passes"] == 1
    assert result["apart"] <= 1, "one rounding instead of three moves a value by one LSB at most"
