"""Where the plugin meets vLLM: four methods of its classes are wrapped, once.

vLLM has no extension point for the meaning of `backend`, so its own methods are called with a
configuration that they accept, and see `ascend_dense` only where they know what to do with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.compilation.backends import VllmBackend
from vllm.config import CompilationConfig, CompilationMode, VllmConfig

from ascend_passes.vllm import ascend, scope, settings, warnings
from ascend_passes.vllm.request import (
    BACKEND,
    Request,
    asked,
    configured_options,
    refuse_misspelling,
)
from ascend_passes.vllm.whole_graph import WholeGraphBackend

MARK = "ascend_passes_installed"


def install_hooks() -> None:
    """Wrap the four methods; does nothing where they are wrapped already."""
    if getattr(VllmConfig, MARK, False):
        return
    wrap_method(CompilationConfig, "__post_init__", accept_backend)
    wrap_method(CompilationConfig, "init_backend", choose_backend)
    wrap_method(VllmConfig, "__post_init__", settle)
    wrap_method(VllmBackend, "__call__", compile_model)
    setattr(VllmConfig, MARK, True)


def wrap_method(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by `wrapper(original, self, *args, **kwargs)`."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(original, self, *args, **kwargs)

    setattr(owner, name, method)


def accept_backend(original: Callable[..., Any], config: Any) -> None:
    """Let VLLM_COMPILE be asked for with our backend, which vLLM refuses for all but two.

    Raises:
        ValueError: a backend that is ours but for a letter or two.
    """
    refuse_misspelling(config.backend)
    if config.backend != BACKEND or config.mode != CompilationMode.VLLM_COMPILE:
        original(config)
        return
    config.backend = ""
    original(config)
    config.backend = BACKEND


def choose_backend(
    original: Callable[..., Any], config: Any, vllm_config: Any, *args: Any, **kwargs: Any
) -> Any:
    """Our whole-graph backend, made for one model of one configuration.

    In mode VLLM_COMPILE the backend is vLLM's; this is where a worker process first learns of the
    request, and so where the compilers under vllm-ascend get our passes.
    """
    if config.mode != CompilationMode.VLLM_COMPILE and config.backend == BACKEND:
        return WholeGraphBackend.of(vllm_config)
    if asked(vllm_config):
        if config.mode == CompilationMode.VLLM_COMPILE:
            ascend.register_with_ascend(configured_options(vllm_config))
        elif config.backend == "inductor":
            settings.join_compiler(vllm_config)  # vLLM copies the settings for each model it builds
    return original(config, vllm_config, *args, **kwargs)


def compile_model(original: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> Any:
    """Take the pieces of a model for one where our passes take part in compiling them."""
    if not asked(backend.vllm_config):
        return original(backend, *args, **kwargs)
    options = configured_options(backend.vllm_config)
    return scope.compile_pieces(original, backend, options, *args, **kwargs)


def settle(original: Callable[..., Any], config: Any, *args: Any) -> None:
    """Resolve what the user asked for before vLLM sees it, and check it afterwards."""
    for sentence in warnings.about_section(config):
        settings.logger.warning("ascend_dense: %s", sentence)
    request = Request.read(config)
    if request is None:
        original(config, *args)
        return
    settings.prepare_config(config, request)
    original(config, *args)
    settings.confirm(config, request)
