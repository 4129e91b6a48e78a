"""vLLM's settings under which our passes work; `warnings` says what would silence them."""

from __future__ import annotations

import os
from typing import Any

from vllm.config import CompilationMode, VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform

from ascend_passes.options.plans import UNBOUNDED, plans
from ascend_passes.vllm import warnings
from ascend_passes.vllm.request import BACKEND, Request, stamp

logger = init_logger("vllm.ascend_passes")
POST_GRAD = "post_grad_custom_post_pass"
OWN_COMPILERS = ("inductor", "eager")
"""vLLM's own compilers; a platform with another one takes passes through its manager."""


def prepare_config(config: VllmConfig, request: Request) -> None:
    """Set what our passes need, before vLLM fills in defaults."""
    compilation = config.compilation_config
    stamp(config, request.options)
    if compilation.ir_enable_torch_wrap is None:
        compilation.ir_enable_torch_wrap = True  # else RMSNorm reaches us taken apart
    if request.as_backend:
        resolve_backend(compilation)
    if compilation.backend != BACKEND:
        join_compiler(config)
    if platform_compiler() == warnings.OUR_COMPILER:
        # vLLM's one-file artifact holds Inductor's code alone; without it vLLM stores the traced
        # graph, and our passes run on that again.
        os.environ.setdefault("VLLM_USE_MEGA_AOT_ARTIFACT", "0")
    if compilation.mode in (None, CompilationMode.VLLM_COMPILE):
        add_range_ends(compilation, request)
        keep_whole(config, request)


def platform_compiler() -> str:
    """The compiler that this platform uses in mode VLLM_COMPILE."""
    return str(current_platform.get_compile_backend())


def resolve_backend(compilation: Any) -> None:
    """Choose mode and backend where `backend` is ascend_dense."""
    asked = compilation.mode
    if platform_compiler() not in OWN_COMPILERS and asked in (None, CompilationMode.VLLM_COMPILE):
        compilation.mode = CompilationMode.VLLM_COMPILE
        compilation.backend = platform_compiler()
    elif asked is None:
        compilation.mode = CompilationMode.DYNAMO_TRACE_ONCE
    elif asked == CompilationMode.VLLM_COMPILE and current_platform.is_cpu():
        compilation.mode = CompilationMode.DYNAMO_TRACE_ONCE
        logger.warning(
            "ascend_dense: vLLM's CPU platform has no mode VLLM_COMPILE; the model is compiled "
            'whole in mode DYNAMO_TRACE_ONCE, which is also what no "mode" at all would choose.'
        )
    elif asked == CompilationMode.VLLM_COMPILE:
        compilation.backend = "inductor"
        logger.warning(
            "ascend_dense: in mode VLLM_COMPILE this platform compiles with Inductor; the passes "
            'run inside it. For ascend_dense as the backend write "mode": "DYNAMO_TRACE_ONCE".'
        )


def join_compiler(config: VllmConfig) -> None:
    """Add the passes to the compiler in use: its post-grad hook, or the platform's manager."""
    from ascend_passes.vllm.passes import AscendDensePass

    compilation = config.compilation_config
    if compilation.backend == "eager":
        logger.warning(
            'ascend_dense: backend "eager" runs no passes; write "backend": "ascend_dense".'
        )
        return
    if compilation.backend not in ("", *OWN_COMPILERS, platform_compiler()):
        logger.warning(
            'ascend_dense: backend "%s" runs no passes of ours; write "backend": "ascend_dense", '
            "or give no backend.",
            compilation.backend,
        )
        return
    key = POST_GRAD if compilation.backend == "inductor" else current_platform.pass_key
    present = compilation.inductor_compile_config.get(key)
    if present is not None and not isinstance(present, AscendDensePass):
        logger.warning(
            "ascend_dense: %s holds a pass of yours already, so that ours do not run; "
            'write "backend": "ascend_dense" to have both.',
            key,
        )
        return
    compilation.inductor_compile_config[key] = AscendDensePass.of(config)


def add_range_ends(compilation: Any, request: Request) -> None:
    """End a compile range of vLLM wherever a plan of ours ends, so that a range has one plan.

    vLLM has no range for one token alone; a plan for it gives way to the next.
    """
    ends = {plan.high for plan in plans(request.options) if 1 < plan.high < UNBOUNDED}
    if ends:
        known = compilation.compile_ranges_endpoints or []
        compilation.compile_ranges_endpoints = sorted({*known, *ends})


def keep_whole(config: VllmConfig, request: Request) -> None:
    """FlashComm carries rows of the residual through all layers, which needs the whole graph."""
    if not request.options.flashcomm or not warnings.reaches_flashcomm(config, request.options):
        return
    compilation = config.compilation_config
    if compilation.splitting_ops is None:
        compilation.splitting_ops = []
    elif compilation.splitting_ops:
        logger.warning(
            "ascend_dense: splitting_ops cuts the graph at attention, and FlashComm gains nothing "
            'in a piece; write "splitting_ops": [].'
        )


def confirm(config: VllmConfig, request: Request) -> None:
    """Say what vLLM or its platform made of the request, and what silences the passes in it."""
    compilation = config.compilation_config
    if compilation.mode == CompilationMode.NONE:
        logger.warning(
            "ascend_dense: nothing is compiled and no pass acts%s.",
            warnings.reason_for_no_compilation(config, platform_compiler() in OWN_COMPILERS),
        )
        return
    if compilation.backend == "inductor":
        # The CPU platform turns this off for its Inductor mode, where the operators run as well.
        compilation.ir_enable_torch_wrap = True
    for sentence in warnings.found(config, request.options):
        logger.warning("ascend_dense: %s", sentence)
    logger.info(
        "ascend_dense: mode %s, %s.",
        CompilationMode(compilation.mode).name,
        "backend of the whole model"
        if compilation.backend == BACKEND
        else f"passes inside {compilation.backend}",
    )
