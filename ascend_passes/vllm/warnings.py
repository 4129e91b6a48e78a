"""What a settled configuration asks for in vain: one sentence each, with the fix."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator
from typing import Any

import torch
from vllm.config import CompilationMode
from vllm.platforms import current_platform

from ascend_passes.options.value import Options
from ascend_passes.vllm.request import BACKEND, IDENTITY, SECTION, given_options

LAYERS_FLASHCOMM = "VLLM_ASCEND_ENABLE_FLASHCOMM1"
SECTION_FLASHCOMM = "enable_flashcomm1"
"""The same in `additional_config`, by vllm-ascend's name."""
STOCK_CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
SHORTEST_RANGE = 2
"""Tokens below which vLLM has no range of its own."""
OF_CAPTURE = ("cudagraph_mode", "capture_sizes", "capture_limit", "capture_warm_up")
"""Options that vLLM decides itself."""
OUR_COMPILER = "ascend_passes.vllm.compiler.AscendDenseCompiler"
OUR_GRAPH_WRAPPER = "ascend_passes.vllm.graph_wrapper.AscendGraphWrapper"


def found(config: Any, options: Options) -> Iterator[str]:
    """The warnings for a configuration that went through vLLM's own checks."""
    yield from about_capture(config)
    yield from about_compiler(config, options)
    if options.flashcomm:
        yield from about_flashcomm(config, options)
        yield from about_flashcomm_tokens(config, options)
    yield from about_collectives(config, options)
    yield from about_prefetch(config, options)
    yield from about_layers(config)


def about_section(config: Any) -> Iterator[str]:
    """Options of ours beside their section, and a section that is ours but for a letter or two.

    Said also where nothing else asks for our passes.
    """
    additional = config.additional_config
    names = {field.name for field in dataclasses.fields(Options)}
    for name in additional if isinstance(additional, dict) else ():
        if name in names:
            fix = f'write {{"{SECTION}": {{"{name}": ...}}}}'
            yield f"{name!r} has no effect outside of our section of additional_config; {fix}."
        elif name not in (SECTION, IDENTITY) and difflib.get_close_matches(
            name, [SECTION], cutoff=0.8
        ):
            yield f"nobody reads the section {name!r} of additional_config; write {SECTION!r}."


def most_tokens(config: Any) -> int:
    """The largest number of tokens that a step can have."""
    return int(config.scheduler_config.max_num_batched_tokens)


def reaches_flashcomm(config: Any, options: Options) -> bool:
    """Whether a step can have more tokens than FlashComm acts above."""
    return options.flashcomm_tokens < most_tokens(config)


def about_flashcomm_tokens(config: Any, options: Options) -> Iterator[str]:
    """Thresholds that no step reaches."""
    most = most_tokens(config)
    if not reaches_flashcomm(config, options):
        yield (
            f'"flashcomm_tokens": {options.flashcomm_tokens} is never exceeded, since '
            f"max_num_batched_tokens is {most}; write a smaller number, or raise that one."
        )
    elif options.matmul_reduce_scatter and options.matmul_reduce_scatter_tokens >= most:
        yield (
            f'"matmul_reduce_scatter_tokens": {options.matmul_reduce_scatter_tokens} is never '
            f"exceeded, since max_num_batched_tokens is {most}; write a smaller number, or raise "
            "that one."
        )


def about_collectives(config: Any, options: Options) -> Iterator[str]:
    """Sums over ranks that no pass can get at."""
    one = config.parallel_config.tensor_parallel_size == 1
    if options.matmul_all_reduce and one:
        yield (
            "matmul_all_reduce fuses sums over ranks, and tensor_parallel_size is 1; write "
            '"matmul_all_reduce": false.'
        )
    asked = options.flashcomm or options.matmul_all_reduce
    if asked and not one and is_stock_cpu(config) and hasattr(torch.ops._C, "init_shm_manager"):
        yield (
            "vLLM's CPU platform sums over ranks by an operator of its own (shm_allreduce) on this "
            "processor, so that flashcomm and matmul_all_reduce find nothing; leave them away here."
        )


def about_prefetch(config: Any, options: Options) -> Iterator[str]:
    """Where weights are to be prefetched and none can be."""
    if not options.prefetch:
        return
    if options.prefetch_tokens <= SHORTEST_RANGE:
        yield (
            f'"prefetch_tokens": {options.prefetch_tokens} leaves no step to prefetch in, since '
            "vLLM has no range for one token alone; write a larger number."
        )
    elif is_stock_cpu(config):
        yield (
            "vLLM's layers on the CPU keep their weights inside oneDNN, so that prefetch finds "
            "none; leave prefetch_mlp and dense_optimize away here."
        )


def about_layers(config: Any) -> Iterator[str]:
    """What vllm-ascend's own layers do themselves where it is asked for the same."""
    if not str(current_platform.get_compile_backend()).startswith("vllm_ascend."):
        return
    switch = layers_flashcomm(config)
    if switch:
        yield (
            f"{switch} turns FlashComm on in vllm-ascend's own layers, whose graph has no "
            "all_reduce and no down weight, so that our FlashComm and prefetch stand back; to have "
            'ours, leave it away and write "flashcomm": true into our section.'
        )


def layers_flashcomm(config: Any) -> str:
    """What turns FlashComm on in vllm-ascend's layers; "" where it is off. Its section wins over
    the variable, as in its `enable_sp`."""
    additional = config.additional_config
    if isinstance(additional, dict) and SECTION_FLASHCOMM in additional:
        return SECTION_FLASHCOMM if additional[SECTION_FLASHCOMM] else ""
    return LAYERS_FLASHCOMM if os.environ.get(LAYERS_FLASHCOMM, "0") not in ("", "0") else ""


def is_stock_cpu(config: Any) -> bool:
    """Whether the model runs on vLLM's own CPU platform."""
    return bool(config.parallel_config.worker_cls == STOCK_CPU_WORKER)


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
    defaults = Options()
    for name in OF_CAPTURE:
        if getattr(given, name) != getattr(defaults, name):
            yield (
                f"its option {name} {getattr(given, name)!r} has no effect, since vLLM decides "
                'what is captured; write "cudagraph_mode" and "cudagraph_capture_sizes" into the '
                "compilation configuration."
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
    if stock and is_stock_cpu(config):
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
