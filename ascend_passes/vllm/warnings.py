"""What a settled configuration asks for in vain: one sentence each, with the fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.config import CompilationMode
from vllm.platforms import current_platform

from ascend_passes.options.value import Options
from ascend_passes.vllm.request import BACKEND, given_options

STOCK_CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
OUR_COMPILER = "ascend_passes.vllm.compiler.AscendDenseCompiler"
OUR_GRAPH_WRAPPER = "ascend_passes.vllm.graph_wrapper.AscendGraphWrapper"


def found(config: Any, options: Options) -> Iterator[str]:
    """The warnings for a configuration that went through vLLM's own checks."""
    yield from about_capture(config)
    yield from about_compiler(config, options)
    if options.flashcomm:
        yield from about_flashcomm(config, options)


def about_flashcomm(config: Any, options: Options) -> Iterator[str]:
    """Where FlashComm is on and cannot act."""
    compilation = config.compilation_config
    if config.parallel_config.tensor_parallel_size == 1:
        yield (
            "FlashComm needs ranks to spread rows over, and tensor_parallel_size is 1; write "
            '"flashcomm": false.'
        )
    elif compilation.backend == BACKEND:
        return
    elif compilation.mode != CompilationMode.VLLM_COMPILE:
        yield (
            f"inside {compilation.backend} this mode has one graph for all numbers of tokens, so "
            'that FlashComm never acts; write "backend": "ascend_dense".'
        )
    elif options.flashcomm_tokens == -1:
        yield (
            '"flashcomm_tokens": -1 asks the cost model about the whole model, while ranges of '
            "tokens are fixed before there is a graph, so that FlashComm never acts; write the "
            "number of tokens above which it shall."
        )


def about_capture(config: Any) -> Iterator[str]:
    """Who captures, and what stays uncaptured."""
    given = given_options(config)
    if given.cudagraph_mode != "NONE":
        yield (
            f"its option cudagraph_mode {given.cudagraph_mode!r} has no effect, since vLLM decides "
            'what is captured; write "cudagraph_mode" into the compilation configuration.'
        )
    mode = config.compilation_config.cudagraph_mode
    if mode is None or current_platform.get_static_graph_wrapper_cls() != OUR_GRAPH_WRAPPER:
        return
    if mode.requires_piecewise_compilation():
        yield (
            f"under cudagraph_mode {mode.name} pieces of the model run uncaptured on this "
            'platform; write "cudagraph_mode": "FULL_DECODE_ONLY".'
        )


def about_compiler(config: Any, options: Options) -> Iterator[str]:
    """What the compiler in use does not do."""
    compilation, backend = config.compilation_config, config.compilation_config.backend
    stock = compilation.mode == CompilationMode.STOCK_TORCH_COMPILE
    if stock and config.parallel_config.worker_cls == STOCK_CPU_WORKER:
        yield (
            "vLLM's CPU runner ignores mode STOCK_TORCH_COMPILE and runs the model eagerly, so "
            'that no pass acts; write "mode": "DYNAMO_TRACE_ONCE" instead.'
        )
    if options.executor != "auto" and backend not in (BACKEND, OUR_COMPILER):
        yield (
            f"executor {options.executor!r} has no effect where the passes run inside {backend}, "
            'which runs the graph itself; leave "executor" away.'
        )


def reason_for_no_compilation(config: Any, stock_compilers: bool) -> str:
    """What turned compilation off, and the fix.

    Args:
        config: vLLM's.
        stock_compilers: whether the platform compiles with vLLM's own compilers.
    """
    if config.model_config is not None and config.model_config.enforce_eager:
        return " by enforce_eager; leave --enforce-eager away"
    if config.lora_config is not None and current_platform.is_cpu():
        return " because vLLM's CPU platform does not compile with LoRA"
    if stock_compilers:
        return "; give no mode, or mode DYNAMO_TRACE_ONCE"
    # vllm-ascend turns every mode but VLLM_COMPILE, and every compilation without capture, off.
    return (
        "; this platform compiles in mode VLLM_COMPILE alone: give no mode, and write "
        '"cudagraph_mode": "FULL_DECODE_ONLY"'
    )
