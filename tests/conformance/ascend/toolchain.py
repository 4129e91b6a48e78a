"""Sets up Huawei's compiler and LLVM's tools, or says in one line why they are not here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conformance.build import ROOT, UNREACHABLE, folder
from tests.made_once import install_wheels, made_once
from tests.shared_objects import BuildError

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
TRITON, COMPILER = "3.2.0", "1.2.0"
WHEELS = (f"triton-ascend=={TRITON}", f"ascendnpu-ir=={COMPILER}", "pybind11", "numpy<2.4")
TOOLS = ("clang-19", "llvm-extract-19", "mlir-translate-19")
"""LLVM 19 is what the compiler was built with; its texts are read by no other."""
DEBIAN = ("clang-19", "llvm-19", "mlir-19-tools")


class MissingError(RuntimeError):
    """Something cannot be set up here; the text is one line."""


def site() -> Path:
    """The folder with the wheels, for PYTHONPATH: a package named `triton` is in it, which no
    other process may see."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    return folder() / f"triton-ascend-{TRITON}-{version}"


def install_compiler() -> Path:
    """The folder with the wheels, installed there on the first call.

    Raises:
        MissingError: the registry has none for this Python, or gives no answer.
    """
    try:
        return made_once(site(), lambda into: install_wheels(into, *WHEELS))
    except BuildError as error:
        why = "cannot be reached" if UNREACHABLE.search(str(error)) else "has none for this Python"
        raise MissingError(f"triton-ascend {TRITON}: the package registry {why}") from error


def install_tools() -> None:
    """LLVM's tools on the PATH, from Debian's packages where this process may install them.

    Raises:
        MissingError: they are not there, and it may not or could not.
    """
    if all(map(shutil.which, TOOLS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingError(f"{', '.join(TOOLS)} are missing: apt-get install {' '.join(DEBIAN)}")
    words = ("apt-get", "install", "-y", "--no-install-recommends", *DEBIAN)
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode or not all(map(shutil.which, TOOLS)):
        line = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise MissingError(f"apt-get could not install {' '.join(DEBIAN)}: {line}")


def environment() -> dict[str, str]:
    """The environment of a process that compiles: the wheels, the stand-ins for the closed code
    generator, and the compiler's programs."""
    programs = (INSIDE, site() / "ascendnpuir" / "bin", os.environ["PATH"])
    return {
        **os.environ,
        "PYTHONPATH": str(site()),
        "PATH": os.pathsep.join(map(str, programs)),
        "OMP_NUM_THREADS": "1",
    }


def set_up() -> None:
    """All that `inside` needs.

    Raises:
        MissingError: something of it cannot be had here.
    """
    install_compiler()
    install_tools()
    for program in (site() / "ascendnpuir" / "bin").iterdir():
        program.chmod(program.stat().st_mode | 0o111)


def prove(work: Path, *words: str) -> dict[str, Any]:
    """What `inside/prove.py` found, as its last line tells.

    Raises:
        RuntimeError: it failed; the text has its output.
    """
    script = (sys.executable, INSIDE / "prove.py", ROOT, work, *words)
    done = subprocess.run(
        list(map(str, script)), capture_output=True, text=True, env=environment(), cwd=work
    )
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
