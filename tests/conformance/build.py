"""Puts the real torch_npu wheel beside the installed torch and builds the CANN stand-in for it.

The wheel imports on a machine without CANN once the libraries it links against exist. Which symbols
they must export is read from the wheel itself; `standin.c` gives behaviour to the few that need it,
the rest is generated here. Nothing of this enters the main environment or the repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from ascend_passes.support import CURRENT, pair_named, pair_of
from tests import shared_objects
from tests.made_once import install_wheels, made_once
from tests.shared_objects import (
    BuildError,
    command,
    forward,
    linked_libraries,
    on_loader_path,
    symbols,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSION = (pair_of(version("torch")) or pair_named(CURRENT)).torch_npu
REQUIREMENTS = (
    f"torch-npu=={VERSION}",
    # What torch_npu and torchair import and the wheel's metadata leaves to CANN's own installer.
    *("numpy", "pyyaml", "decorator", "scipy", "attrs", "psutil", "packaging", "protobuf"),
)
LOADED_AT_RUN_TIME = ("libopapi.so", "libnnopbase.so", "libruntime.so")
"""Libraries that torch_npu opens by name, for its operators, and does not link against."""
UNREACHABLE = re.compile("NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError")
"""What pip prints when it gets no answer from the registry."""
CPP_TABLES = ("_ZTV", "_ZTI", "_ZTS")
"""Mangled prefixes of C++ vtables and type information: data, not functions."""
STANDIN = "libcann_standin.so"
OPERATOR_HELPERS = [
    "aclCreateTensor",
    "aclCreateScalar",
    "aclCreateIntArray",
    "aclCreateBoolArray",
    "aclCreateTensorList",
    "aclCreateScalarList",
    "aclDestroyTensor",
    "aclDestroyScalar",
    "aclDestroyIntArray",
    "aclDestroyBoolArray",
    "aclDestroyTensorList",
    "aclDestroyScalarList",
    "aclDestroyAclOpExecutor",
    "InitHugeMemThreadLocal",
    "UnInitHugeMemThreadLocal",
    "ReleaseHugeMem",
    "InitPTACacheThreadLocal",
    "SetPTAHashKey",
]


class RegistryError(BuildError):
    """The package registry cannot be reached."""


def folder() -> Path:
    """Where the wheel and the stand-in are kept between runs."""
    return Path(os.environ.get("ASCEND_PASSES_CONFORMANCE", ROOT / "build" / "conformance"))


def site() -> Path:
    """The folder with torch_npu, for PYTHONPATH."""
    return folder() / f"torch-npu-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"


def install() -> Path:
    """The folder with the wheel, installed there on the first call."""
    try:
        return made_once(site(), lambda into: install_wheels(into, *REQUIREMENTS))
    except BuildError as error:
        if UNREACHABLE.search(str(error)):
            raise RegistryError(str(error)) from error
        raise


def wheel_libraries() -> list[Path]:
    """The wheel's shared libraries and extension modules."""
    package = site() / "torch_npu"
    patterns = ("lib/*.so", "_C*.so", "dynamo/torchair/core/*.so")
    return sorted(path for pattern in patterns for path in package.glob(pattern))


def present_libraries() -> list[Path]:
    """The shared libraries that a Python process with torch has loaded."""
    script = "import torch, pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    maps = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    ).stdout
    return sorted({Path(path) for path in re.findall(r"(/\S+\.so[\d.]*)$", maps, re.MULTILINE)})


def wanted_symbols() -> set[str]:
    """What the wheel's libraries want and nothing on this machine defines: CANN's part."""
    libraries = wheel_libraries()
    defined = symbols("--defined-only", *libraries, *present_libraries(), Path(sys.executable))
    return symbols("--undefined-only", *libraries) - defined


def wanted_libraries() -> set[str]:
    """The libraries that the wheel links against and that are not on this machine."""
    libraries = wheel_libraries()
    present = {path.name for path in [*libraries, *present_libraries()]}
    needed = set().union(*map(linked_libraries, libraries))
    return {name for name in needed - present if not on_loader_path(name)}


def kernel_symbols() -> set[str]:
    """The operators' kernels, which torch_npu looks up by name at run time."""
    content = (site() / "torch_npu" / "lib" / "libtorch_npu.so").read_bytes()
    kernels = {name.decode() for name in re.findall(rb"(?<=\0)aclnn[A-Z]\w+(?=\0)", content)}
    sizes = {f"{name}GetWorkspaceSize" for name in kernels if not name.endswith("GetWorkspaceSize")}
    return kernels | sizes


def source(missing: set[str], kernels: set[str], helpers: set[str]) -> str:
    """C for the symbols without behaviour: `missing` refuse, `kernels` may be empty."""
    lines = ["int standin_missing(const char *name);", "int standin_kernel(const char *name);"]
    tables = {name for name in missing if name.startswith(CPP_TABLES)}
    lines += [f"char {name}[512];" for name in sorted(tables)]
    lines += [
        f'int {name}(void) {{ return standin_missing("{name}"); }}'
        for name in sorted(missing - tables)
    ]
    lines += [
        f'int {name}(void) {{ return standin_kernel("{name}"); }}' for name in sorted(kernels)
    ]
    lines += [f"long {name}(void) {{ return 0; }}" for name in sorted(helpers)]
    return "\n".join(lines) + "\n"


def build() -> Path:
    """The folder with the stand-in's libraries, built anew when their sources changed."""
    install()
    sources = (HERE / "standin.c", Path(__file__), Path(shared_objects.__file__))
    recipe = b"".join(path.read_bytes() for path in sources) + VERSION.encode()
    return made_once(folder() / f"standin-{hashlib.sha256(recipe).hexdigest()[:12]}", link)


def link(target: Path) -> None:
    """Put the stand-in and the libraries that forward to it into a new folder."""
    target.mkdir()
    behaviour = target / "behaviour.o"
    options = ("-fPIC", "-O1", "-w")
    command("cc", *options, "-c", HERE / "standin.c", "-o", behaviour)
    written = symbols_of_object(behaviour)
    missing, kernels = wanted_symbols() - written, kernel_symbols() - written
    generated = target / "generated.c"
    generated.write_text(source(missing - kernels, kernels, set(OPERATOR_HELPERS) - written))
    standin = target / STANDIN
    command(
        "cc",
        *options,
        "-shared",
        f"-Wl,-soname,{standin.name}",
        "-o",
        standin,
        generated,
        behaviour,
    )
    for name in {*wanted_libraries(), *LOADED_AT_RUN_TIME}:
        forward(target / name, standin)


def symbols_of_object(path: Path) -> set[str]:
    """The functions that an object file defines."""
    return {
        line.split()[0]
        for line in command("nm", "--defined-only", "--format=posix", path).splitlines()
    }


def environment(**extra: str) -> dict[str, str]:
    """The environment of a process that imports the wheel on the stand-in."""
    libraries = build()
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site()), str(ROOT)]),
        "LD_LIBRARY_PATH": os.pathsep.join(
            filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")])
        ),
        "STANDIN_LIBRARY": str(libraries / STANDIN),
        "OMP_NUM_THREADS": "1",
        # Operators run in the calling thread, so that the stand-in sees them in order.
        "TASK_QUEUE_ENABLE": "0",
        # The wheel's `.out` operators return what they wrote, which torch reports as an error
        # where CI is set in the environment, and as a warning for users.
        "TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING": "0",
        **extra,
    }
