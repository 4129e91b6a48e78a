"""The compiler for platforms that let vLLM's mode VLLM_COMPILE use one of their own.

A platform names it in `get_compile_backend`, and `AscendDensePassManager` in
`get_pass_manager_cls`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import fx
from vllm.compilation.compiler_interface import CompilerInterface
from vllm.platforms import current_platform

from ascend_passes.compile.variant import device_type
from ascend_passes.engine.registry import identity
from ascend_passes.executors.execute import execute
from ascend_passes.ir import trace
from ascend_passes.vllm.request import configured_options

FUNCTIONALIZE = "pre_grad_custom_pass"
"""Where vLLM leaves its pass that brings its in-place operators into functional form."""


class AscendDenseCompiler(CompilerInterface):  # type: ignore[misc]
    """Compiles a graph, or a piece of one, for one range of tokens; keeps nothing on disk."""

    name = "ascend_dense"

    def compute_hash(self, vllm_config: Any) -> str:
        """Our identity under this configuration's options, which `compile` uses as well."""
        self.options = configured_options(vllm_config)
        return identity(self.options)

    def compile(
        self,
        graph: fx.GraphModule,
        example_inputs: list[Any],
        compiler_config: dict[str, Any],
        compile_range: Any,
        key: str | None = None,
    ) -> tuple[Callable[..., Any], None]:
        """The compiled graph; vLLM keeps the original for other ranges, so a copy is edited."""
        graph = copy.deepcopy(graph)
        if FUNCTIONALIZE in compiler_config:
            compiler_config[FUNCTIONALIZE](graph.graph)
            graph.recompile()
        manager = compiler_config[current_platform.pass_key]

        def compiler(gm: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            manager(gm.graph)
            gm.recompile()
            return execute(gm, inputs, self.options, device_type(gm.graph))

        with trace.fresh_context(), trace.without_artifacts():
            return trace.compile_piece(graph, example_inputs, compiler), None
