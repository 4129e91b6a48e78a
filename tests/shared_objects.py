"""What shared libraries want and define, and empty ones that stand in for those a machine lacks."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path


class BuildError(RuntimeError):
    """A command failed; the text has its output."""


def command(*words: str | Path) -> str:
    """Standard output of a command.

    Raises:
        BuildError: it failed.
    """
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def symbols(kind: str, *libraries: Path) -> set[str]:
    """Unversioned names that `libraries` define (`--defined-only`) or want (`--undefined-only`)."""
    lines = command("nm", "--dynamic", kind, "--format=posix", *libraries).splitlines()
    words = [line.split() for line in lines if not line.endswith(":")]
    return {word[0].split("@")[0] for word in words if len(word) > 1 and word[1] not in "wv"}


def linked_libraries(library: Path) -> set[str]:
    """The libraries that `library` names as needed."""
    return set(re.findall(r"NEEDED.*\[(.+?)\]", command("readelf", "--dynamic", library)))


def on_loader_path(name: str) -> bool:
    """Whether the system's loader would find a library by this name."""
    return f"\t{name} " in loader_cache()


@functools.cache
def loader_cache() -> str:
    """The system loader's list of libraries."""
    return command("/sbin/ldconfig", "-p")


def forward(library: Path, standin: Path) -> None:
    """An empty library that needs the stand-in: look-ups by name find every symbol in it."""
    link = ("-shared", "-Wl,--no-as-needed", f"-Wl,-soname,{library.name}", "-Wl,-rpath,$ORIGIN")
    command("cc", *link, "-o", library, "-x", "c", "/dev/null", "-x", "none", standin)
