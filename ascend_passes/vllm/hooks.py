"""Where the plugin meets vLLM: three methods of its configuration classes are wrapped, once.

vLLM has no extension point for the meaning of `backend`, so its own methods are called with a
configuration that they accept, and see `ascend_dense` only where they know what to do with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.config import CompilationConfig, CompilationMode, VllmConfig

from ascend_passes.vllm import ascend, settings
from ascend_passes.vllm.request import BACKEND, SECTION, Request, options_of
from ascend_passes.vllm.whole_graph import WholeGraphBackend, model_name

MARK = "ascend_passes_installed"


def install() -> None:
    """Wrap the three methods; does nothing where they are wrapped already."""
    if getattr(VllmConfig, MARK, False):
        return
    wrap(CompilationConfig, "__post_init__", accept_backend)
    wrap(CompilationConfig, "init_backend", choose_backend)
    wrap(VllmConfig, "__post_init__", settle)
    setattr(VllmConfig, MARK, True)


def wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by `wrapper(original, self, *args, **kwargs)`."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(original, self, *args, **kwargs)

    setattr(owner, name, method)


def accept_backend(original: Callable[..., Any], config: Any) -> None:
    """Let VLLM_COMPILE be asked for with our backend, which vLLM refuses for all but two."""
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
    request, and so where npugraph_ex gets our passes.
    """
    if config.mode == CompilationMode.VLLM_COMPILE:
        if SECTION in (vllm_config.additional_config or {}):
            ascend.register(options_of(vllm_config), model_name(vllm_config))
    elif config.backend == BACKEND:
        return WholeGraphBackend.of(vllm_config)
    return original(config, vllm_config, *args, **kwargs)


def settle(original: Callable[..., Any], config: Any, *args: Any) -> None:
    """Resolve what the user asked for before vLLM sees it, and check it afterwards."""
    request = Request.read(config)
    if request is None:
        original(config, *args)
        return
    settings.prepare(config, request)
    original(config, *args)
    settings.confirm(config, request)
