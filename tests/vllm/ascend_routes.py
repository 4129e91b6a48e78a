"""Our passes in every compile route of vllm-ascend, on the CANN stand-in; prints counts as JSON.

A program of the tests; it runs where vLLM, vllm-ascend and torch_npu can be imported. The graph is
traced on the stand-in's device and compiled; it is not run, since the stand-in has no kernels.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch_npu  # noqa: F401  the device, and the compilers' lazy modules
from torch import fx
from vllm.compilation.passes.inductor_pass import pass_context
from vllm.config.utils import Range
from vllm_ascend.compilation import compiler_interface
from vllm_ascend.compilation.graph_fusion_pass_manager import GraphFusionPassManager

import ascend_passes
from ascend_passes.options.value import Options
from ascend_passes.vllm import ascend
from ascend_passes.vllm.passes import AscendDensePass
from tests.vllm.ascend_manager import ROWS, WIDTH, block

SETTINGS = SimpleNamespace(enable_static_kernel=False, enable_npugraph_ex=True)
CONFIG = SimpleNamespace(speculative_config=None)
RANGE = Range(1, 128)


def traced() -> tuple[fx.GraphModule, list[Any]]:
    """Dynamo's graph of the block, and its inputs."""
    found: list[tuple[fx.GraphModule, list[Any]]] = []

    def keep(gm: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        found.append((gm, inputs))
        return lambda *args: (torch.empty(ROWS, WIDTH, dtype=torch.int8, device="npu:0"),)

    sizes = [(ROWS, WIDTH), (ROWS, WIDTH), (WIDTH,)]
    inputs = [torch.empty(size, dtype=torch.bfloat16, device="npu:0") for size in sizes]
    with torch.no_grad():
        torch.compile(block, backend=keep)(*inputs)
    return found[0]


def through_manager(gm: fx.GraphModule, inputs: list[Any]) -> Any:
    """The route for pieces: vllm-ascend's pass manager."""
    manager = GraphFusionPassManager()
    manager.add(AscendDensePass({}, "model", inductor=False))
    key = compiler_interface.COMPILATION_PASS_KEY
    return compiler_interface.fusion_pass_compile(gm, inputs, {key: manager}, RANGE)


def through_compiler(gm: fx.GraphModule, inputs: list[Any]) -> Any:
    """The route for whole graphs: npugraph_ex."""
    ascend.register_with_ascend(Options())
    return compiler_interface.npugraph_ex_compile(gm, inputs, {}, CONFIG, SETTINGS, RANGE)


def fired(route: Callable[..., Any], gm: fx.GraphModule, inputs: list[Any]) -> dict[str, int]:
    """What our passes did on the way."""
    ascend_passes.reset()
    with pass_context(RANGE), torch.no_grad():
        compiled, _ = route(copy.deepcopy(gm), list(inputs))
    assert callable(compiled)
    return dict(ascend_passes.reports()[-1].fired) if ascend_passes.reports() else {}


def in_torchair() -> dict[str, str]:
    """Whose hook torchair is handed where npugraph_ex cannot be imported, and its own error."""
    sys.modules["npugraph_ex"] = None  # type: ignore[assignment]  its import fails from here on
    name = ascend.register_with_ascend(Options())
    import torchair

    config, error = torchair.CompilerConfig(), ""
    try:
        torchair.get_npu_backend(compiler_config=config)
    except ImportError as failure:  # torchair of torch_npu 2.13 does not compile anything here
        error = str(failure)
    hook = config.post_grad_custom_post_pass.value
    return {"compiler": name, "hook": hook.__module__, "error": error}


def main() -> None:
    gm, inputs = traced()
    results: dict[str, Any] = {"manager": fired(through_manager, gm, inputs)}
    results["npugraph_ex"] = fired(through_compiler, gm, inputs)
    results["again"] = fired(through_compiler, gm, inputs)
    results["torchair"] = in_torchair()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
