"""Our passes in npugraph_ex, the compile route of vllm-ascend that never calls its pass manager.

vllm-ascend makes the compiler's configuration itself; the hook is set where it hands it over. The
passes run after npugraph_ex's own patterns and find what those left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from ascend_passes.options import Options

MARK = "ascend_passes_hook"


def register(options: Options, label: str) -> bool:
    """Put our passes into every graph that npugraph_ex compiles in this process from now on.

    Returns:
        Whether npugraph_ex is here. A second call replaces the options and the label of the first.
    """
    try:
        import npugraph_ex  # type: ignore[import-not-found]
    except ImportError:
        return False
    original = getattr(npugraph_ex.get_npu_backend, MARK, npugraph_ex.get_npu_backend)
    npugraph_ex.get_npu_backend = hooked(original, post_grad(options, label))
    return True


def hooked(original: Callable[..., Any], hook: Callable[..., None]) -> Callable[..., Any]:
    """`get_npu_backend` with our hook behind the user's own, if there is one."""

    @functools.wraps(original)
    def get_npu_backend(*args: Any, compiler_config: Any = None, **kwargs: Any) -> Any:
        if compiler_config is not None:
            first = compiler_config.post_grad_custom_post_pass
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


def post_grad(options: Options, label: str) -> Callable[..., None]:
    """The hook: `(gm, example_inputs, config)`, edits the graph in place."""

    def hook(gm: fx.GraphModule, example_inputs: Sequence[Any], config: Any) -> None:
        from ascend_passes.vllm.passes import run, token_range

        where, plan = token_range(options)
        run(gm.graph, options, plan, f"{label}{where}")
        gm.recompile()

    return hook
