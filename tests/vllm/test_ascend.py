"""The wiring for vllm-ascend, against its released package.

Its pass manager runs on a machine without an NPU, and so do its compile functions, on torch_npu
with the CANN stand-in. Its operators need CANN, so that a model under vllm-ascend runs on an NPU
only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import build

HERE = Path(__file__).parent
PACKAGE = "vllm-ascend==0.23.0"
FUSIONS = {"add_rms_norm": 1, "add_rms_norm_dynamic_quant": 1}


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


def last_line(python: Path, program: str, environment: dict[str, str]) -> Any:
    """What a program prints as JSON on its last line."""
    done = subprocess.run(
        [str(python), str(HERE / program)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_our_pass_in_its_pass_manager(
    package: Path, python: Path, environment: dict[str, str]
) -> None:
    variables = {**environment, "PYTHONPATH": str(package), "VLLM_PLUGINS": "none"}
    result = last_line(python, "ascend_manager.py", variables)
    assert FUSIONS.items() <= result["fired"].items()
    # Two roundings less of 2**-9 each move a value of 127 and its row's scale by 1/2 each.
    assert result["apart"] <= 2, result["apart"]


@pytest.fixture(scope="module")
def routes(package: Path, python: Path) -> Any:
    """What fired in each compile route, on torch_npu with the CANN stand-in."""
    try:
        variables = build.environment(VLLM_PLUGINS="none")
    except build.RegistryError as error:
        pytest.skip(f"the package registry cannot be reached: {error}")
    variables["PYTHONPATH"] += f"{os.pathsep}{package}"
    return last_line(python, "ascend_routes.py", variables)


@pytest.mark.parametrize("route", ["manager", "npugraph_ex", "again"])
def test_both_compile_routes_get_our_passes_once(routes: Any, route: str) -> None:
    assert routes[route] == FUSIONS


def test_torchair_gets_our_hook_where_npugraph_ex_is_absent(routes: Any) -> None:
    """torchair of torch_npu 2.13 cannot import its own decompositions, so that it goes no
    further."""
    assert routes["torchair"]["compiler"] == "torchair"
    assert routes["torchair"]["hook"] == "ascend_passes.vllm.ascend"
