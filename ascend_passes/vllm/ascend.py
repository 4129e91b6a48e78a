"""Our passes in the compilers under vllm-ascend that never call its pass manager.

vllm-ascend makes the compiler's configuration itself; the hook is set where it hands it over:
npugraph_ex, or torchair where that is absent. The passes run after the compiler's own patterns and
find what those left.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ascend_passes.options.value import Options

COMPILERS = ("npugraph_ex", "torchair")
"""In vllm-ascend's order; the first that is here compiles. Their interfaces are the same."""
MARK = "ascend_passes_hook"


def register_with_ascend(options: Options) -> str:
    """Put our passes into every graph that vllm-ascend compiles in this process from now on.

    Returns:
        The compiler that is here, or "". A second call replaces the options of the first.
    """
    for name in COMPILERS:
        try:
            compiler = importlib.import_module(name)
        except ImportError:
            continue
        original = getattr(compiler.get_npu_backend, MARK, compiler.get_npu_backend)
        compiler.get_npu_backend = hooked(original, post_grad(options))  # type: ignore[attr-defined]
        return name
    return ""


def hooked(original: Callable[..., Any], hook: Callable[..., None]) -> Callable[..., Any]:
    """`get_npu_backend` with our hook behind the user's own, if there is one."""

    @functools.wraps(original)
    def get_npu_backend(*args: Any, compiler_config: Any = None, **kwargs: Any) -> Any:
        if compiler_config is not None:
            first = compiler_config.post_grad_custom_post_pass.value
            compiler_config.post_grad_custom_post_pass = (
                hook if first is None else both(first, hook)
            )
        return original(*args, compiler_config=compiler_config, **kwargs)

    setattr(get_npu_backend, MARK, original)
    return get_npu_backend


def both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    """A hook that runs two."""

    def hook(*args: Any) -> None:
        first(*args)
        second(*args)

    return hook


def post_grad(options: Options) -> Callable[..., None]:
    """The hook: `(gm, example_inputs, config)`, edits the graph in place."""

    def hook(gm: fx.GraphModule, example_inputs: Sequence[Any], config: Any) -> None:
        from ascend_passes.vllm.passes import run_passes, token_range

        where, plan = token_range(options)
        run_passes(gm.graph, options, plan, "model", where)
        gm.recompile()

    return hook
