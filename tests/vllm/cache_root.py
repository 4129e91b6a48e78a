"""Folders for vLLM's caches that share what it knows of its own model classes.

It asks for that in a process that imports all of vLLM, once for each class in each cache.
"""

from __future__ import annotations

from pathlib import Path

KNOWN = "modelinfos"
"""vLLM's name; each file in it holds the hash of the source that it was read from."""


def make_cache_root(root: Path, venv: Path) -> str:
    """The value for VLLM_CACHE_ROOT: a folder, made where it is not there.

    Args:
        root: the folder.
        venv: of the interpreter that has vLLM; what is shared is kept in it.
    """
    shared, link = venv / KNOWN, root / KNOWN
    shared.mkdir(exist_ok=True)
    root.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(shared)
    return str(root)
