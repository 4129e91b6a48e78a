"""The plugin on vllm-ascend's own platform, on the pair's torch_npu and the CANN stand-in.

Configurations are settled as an engine would settle them; no model is run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conformance import build
from tests.vllm.checkpoints import make
from tests.vllm.session import MARK

SERVE = {"cudagraph_mode": "FULL_DECODE_ONLY", "splitting_ops": []}
"""What docs/vllm.md serves with."""
EXPORTS = {
    "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1",
    "VLLM_ASCEND_ENABLE_PREFETCH_MLP": "1",
    "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE": "1",
}
COMPILER = "vllm_ascend.compilation.compiler_interface.AscendCompiler"


def case(
    name: str,
    options: Any,
    compilation: Any = SERVE,
    environment: Any = None,
    enable_flashcomm1: bool = False,
    **engine: Any,
) -> dict[str, Any]:
    its_own = {"enable_flashcomm1": True} if enable_flashcomm1 else {}
    ours = {} if options is None else {"ascend_passes": options}
    section = {"additional_config": {**its_own, **ours}} if its_own or ours else {}
    more = {"max_num_batched_tokens": 2048, **section, **engine}
    return {
        "name": name,
        "environment": environment or {},
        "engine": {"dtype": "bfloat16", "compilation_config": compilation, **more},
    }


CASES = (
    case("untouched", None),
    case("section", {}),
    case("backend", {}, {**SERVE, "backend": "ascend_dense"}),
    case("thresholds", {"flashcomm": True, "prefetch_mlp": True}, tensor_parallel_size=4),
    case("exports", {}, environment=EXPORTS, tensor_parallel_size=4),
    case("its own", {"flashcomm": True}, tensor_parallel_size=4, enable_flashcomm1=True),
    case("misspelt", {"flashcom": True}),
)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plugin")
    model = str(make(folder / "model", "qwen3", "bf16"))
    variables = build.environment(
        HF_HUB_OFFLINE="1",
        VLLM_CACHE_ROOT=str(folder / "cache"),
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_NO_USAGE_STATS="1",
    )
    # The installed package is the one whose entry points vLLM reads; this source comes first.
    variables["PYTHONPATH"] = os.pathsep.join([str(build.ROOT), str(build.site())])
    variables.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    cases = [{**one, "engine": {"model": model, **one["engine"]}} for one in CASES]
    done = subprocess.run(
        [sys.executable, str(build.ROOT / "tests/vllm/settled.py"), str(folder / "found.json")],
        input=json.dumps(cases),
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    found = json.loads((folder / "found.json").read_text())
    for part in done.stdout.split(MARK)[1:]:
        name, _, output = part.partition("\n")
        found[name]["log"] = [line for line in output.splitlines() if "ascend_dense:" in line]
    return found


@pytest.mark.parametrize("name", ["section", "backend", "thresholds", "exports"])
def test_our_passes_join_its_compiler(settled: dict[str, Any], name: str) -> None:
    one = settled[name]
    assert (one.get("mode"), one.get("backend")) == ("VLLM_COMPILE", COMPILER), one
    assert f"ascend_dense: mode VLLM_COMPILE, passes inside {COMPILER}." in one["log"][-1]


def test_without_a_section_nothing_of_ours_is_said(settled: dict[str, Any]) -> None:
    assert settled["untouched"]["backend"] == COMPILER and not settled["untouched"]["log"]


@pytest.mark.parametrize("name", ["thresholds", "exports"])
def test_ranges_end_where_plans_end(settled: dict[str, Any], name: str) -> None:
    assert settled[name]["range_ends"] == [499, 1000, 2048]
    assert settled[name]["splitting_ops"] == []


def test_flashcomm_of_its_own_layers_is_said_with_the_fix(settled: dict[str, Any]) -> None:
    sentence = " turns FlashComm on in vllm-ascend's own layers"
    assert f"VLLM_ASCEND_ENABLE_FLASHCOMM1{sentence}" in "\n".join(settled["exports"]["log"])
    assert f"enable_flashcomm1{sentence}" in "\n".join(settled["its own"]["log"])
    assert sentence not in "\n".join(settled["thresholds"]["log"])


def test_a_misspelling_stops_the_start(settled: dict[str, Any]) -> None:
    assert "Did you mean 'flashcomm'?" in settled["misspelt"]["error"]
