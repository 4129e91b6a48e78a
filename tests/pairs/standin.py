"""What vllm-ascend wants beside torch_npu on a machine without CANN.

Its extension with the schemas of its operators loads once the libraries that it links against
exist; which symbols they must export is read from it, as `tests/conformance/build.py` does for
torch_npu. Three packages that its worker imports are laid beside the environment.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

from tests.conformance import build
from tests.made_once import install_wheels, made_once
from tests.shared_objects import command, forward, linked_libraries, on_loader_path, symbols

WHEELS = ("numba==0.68.1", "llvmlite==0.50.0", "torchvision==0.25.0")
"""Imported by its model runner, for expert balancing and for vision models; nothing calls them."""
STANDIN = "libextension_standin.so"


def extension() -> list[Path]:
    """The package's own shared libraries that a worker loads."""
    found = importlib.util.find_spec("vllm_ascend")
    assert found is not None and found.origin is not None
    package = Path(found.origin).parent
    return [*package.glob("vllm_ascend_C*.so"), package / "libvllm_ascend_kernels.so"]


def wheels() -> Path:
    """The folder with the packages, installed there on the first call."""
    name = hashlib.sha256(repr(WHEELS).encode()).hexdigest()[:12]
    target = build.folder() / f"beside-vllm-ascend-{name}"
    return made_once(target, lambda into: install_wheels(into, *WHEELS))


def build_extension() -> Path:
    """The folder with the libraries that the extension links against and that are not here."""
    standin = build.build()
    recipe = b"".join(path.read_bytes() for path in (Path(__file__), *extension()))
    name = f"{standin.name}-extension-{hashlib.sha256(recipe).hexdigest()[:12]}"
    return made_once(build.folder() / name, lambda target: link(target, standin))


def link(target: Path, standin: Path) -> None:
    """Put the missing libraries into a new folder; a call of what they export refuses by name."""
    target.mkdir()
    present = [*build.wheel_libraries(), *build.present_libraries(), *extension()]
    needed = set().union(*map(linked_libraries, extension()))
    here = {path.name for path in (*present, *standin.iterdir())}
    missing = [name for name in sorted(needed - here) if not on_loader_path(name)]
    present += [standin / build.STANDIN, Path(sys.executable)]
    wanted = symbols("--undefined-only", *extension()) - symbols("--defined-only", *present)
    generated = target / "generated.c"
    generated.write_text(build.source(wanted, set(), set()))
    library = target / STANDIN
    options = ("-fPIC", "-O1", "-w", "-shared", f"-Wl,-soname,{STANDIN}")
    command("cc", *options, "-o", library, generated, standin / build.STANDIN)
    for name in missing:
        forward(target / name, library)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a process in which a worker of vllm-ascend runs."""
    variables = build.environment(
        HF_HUB_OFFLINE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_NO_USAGE_STATS="1",
    )
    libraries = (variables["LD_LIBRARY_PATH"], str(build_extension()))
    # The installed package is the one whose entry points vLLM reads; this source comes first.
    folders = (str(build.ROOT), str(build.site()), str(wheels()))
    variables.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    return {
        **variables,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PYTHONPATH": os.pathsep.join(folders),
        **extra,
    }
