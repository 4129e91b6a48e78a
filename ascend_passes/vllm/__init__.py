"""The plugin for vLLM: `ascend_dense` in every compilation mode, and our passes in other compilers.

vLLM calls `register` in each of its processes. Nothing here imports vLLM before that.
"""

from __future__ import annotations

import logging


def register() -> None:
    """Make `ascend_dense` known to vLLM; may be called any number of times.

    A vLLM without the names that the plugin needs, or a broken installation of ours, is logged and
    leaves vLLM as it is.
    """
    try:
        from ascend_passes.vllm import hooks

        hooks.install_hooks()
    except (ImportError, AttributeError) as error:
        logging.getLogger("vllm.ascend_passes").warning(
            "ascend_dense is not available in this vLLM: %s: %s", type(error).__name__, error
        )
