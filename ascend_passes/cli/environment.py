"""What this machine has and what that makes possible: the answers behind the command `doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ascend_passes import npu
from ascend_passes.cli.cann import cann_version, hccl_version
from ascend_passes.cli.supported_versions import outside, ranged
from ascend_passes.executors.execute import ExecutorError, has_torch_npu, require_torch_npu
from ascend_passes.support import PAIRS, minor, pair_of

FUSED_NORMS = ("npu_add_rms_norm", "npu_add_rms_norm_quant", "npu_add_rms_norm_dynamic_quant")
ENTRY_POINTS = (
    ("torch_dynamo_backends", "ascend_dense"),
    ("vllm.general_plugins", "ascend_passes"),
)
COLLECTIVE_MATMULS = ("npu_mm_reduce_scatter_base", "npu_all_gather_base_mm")


@dataclass(frozen=True)
class System:
    """One of the optimizations and whether this machine can run it on an NPU."""

    name: str
    possible: bool
    reason: str


@dataclass(frozen=True)
class Environment:
    """Everything that `doctor` reports."""

    versions: Mapping[str, str | None]
    """Distribution or library -> its version; None where it is missing."""
    device: str
    """Kind of the device that graphs run on here: npu, cuda or cpu."""
    soc: str | None
    torch_npu_problem: str | None
    """Why an installed torch_npu does not import."""
    operators: Mapping[str, bool]
    """Every operator of ours, and whether torch_npu here has it; none without torch_npu."""
    entry_points: Mapping[str, bool]
    """What torch and vLLM find us by, and whether the installed package declares it."""
    mismatch: str | None
    """How the versions of torch and torch_npu do not belong together."""
    unsupported: Mapping[str, str]
    """Installed distribution -> the versions of it that this package takes, where it is none."""
    pair: str | None
    """Name of the row of `support.PAIRS` that torch here is in; None where it is in none."""
    systems: tuple[System, ...]
    advice: tuple[str, ...]
    """What to install or change, one sentence each; empty where nothing is missing for an NPU."""

    @property
    def missing_operators(self) -> tuple[str, ...]:
        """Operators of ours that torch_npu here does not have."""
        return tuple(name for name, found in self.operators.items() if not found)

    @property
    def sound(self) -> bool:
        """Whether what is installed works together and torch finds the backend, NPU or not."""
        wrong = self.torch_npu_problem or self.mismatch or self.unsupported
        return not wrong and all(self.entry_points.values())

    @property
    def healthy(self) -> bool:
        """Whether this is sound, and every optimization can run on an NPU here."""
        return self.sound and all(system.possible for system in self.systems)

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain dictionaries and lists."""
        derived = {"missing_operators": self.missing_operators, "healthy": self.healthy}
        return {**asdict(self), **derived}


def examine() -> Environment:
    """Look at the machine. Nothing is changed, and nothing is run on a device."""
    problem = torch_npu_problem()
    usable = has_torch_npu() and problem is None
    device = usable_device(usable)
    operators = {name: usable and has_kernel(name) for name in npu.of_cann()}
    missing = tuple(name for name, found in operators.items() if not found)
    versions = {**distributions(), "CANN": cann_version(), "HCCL": hccl_version()}
    mismatch = version_mismatch(versions["torch-npu"])
    declared = entry_points()
    unsupported = dict(outside(versions))
    pair = pair_of(torch.__version__)
    return Environment(
        versions=versions,
        device=device,
        soc=soc(usable),
        torch_npu_problem=problem,
        operators=operators,
        entry_points=declared,
        mismatch=mismatch,
        unsupported=unsupported,
        pair=None if pair is None else pair.name,
        systems=systems(device, missing, versions["HCCL"] is not None, has_graphs(usable)),
        advice=(
            *(ranged(name, versions[name], span) for name, span in unsupported.items()),
            *advice(versions, device, problem, missing, mismatch, declared),
        ),
    )


def version_mismatch(torch_npu: str | None) -> str | None:
    """How torch_npu's version differs from torch's, of which it must be the same minor release."""
    if torch_npu is None or minor(torch_npu) == minor(torch.__version__):
        return None
    return f"torch is {torch.__version__} and torch_npu is {torch_npu}"


def entry_points() -> dict[str, bool]:
    """The names by which torch and vLLM find this package, and whether they would.

    A source tree on `sys.path` that is not installed declares none.
    """
    return {
        f"{group}: {name}": bool(importlib.metadata.entry_points(group=group, name=name))
        for group, name in ENTRY_POINTS
    }


def has_graphs(usable: bool) -> bool:
    """Whether torch_npu here has the graphs that steps are captured in."""
    return usable and hasattr(torch.npu, "NPUGraph") and hasattr(torch.npu, "graph")  # type: ignore[attr-defined]


def distributions() -> dict[str, str | None]:
    """Versions of the Python packages that matter here."""
    names = (
        "torch",
        "torch-npu",
        "vllm",
        "vllm-ascend",
        "ascend-passes",
        "triton",
        "triton-ascend",
    )
    return {name: distribution_version(name) for name in names}


def distribution_version(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_npu_problem() -> str | None:
    """Why torch_npu is installed and does not import; None where it does or is not there."""
    if not has_torch_npu():
        return None
    try:
        require_torch_npu("npugraph_ex")
    except ExecutorError as error:
        return str(error.__cause__)
    return None


def usable_device(usable: bool) -> str:
    """npu, cuda or cpu, the first that has a device."""
    if usable and torch.npu.is_available():  # type: ignore[attr-defined]
        return "npu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def soc(usable: bool) -> str | None:
    """The chip's name as CANN gives it, such as `Ascend910B1`."""
    if usable_device(usable) != "npu":
        return None
    return str(torch.npu.get_device_name(0))  # type: ignore[attr-defined]


def has_kernel(name: str) -> bool:
    """Whether torch_npu registered a kernel for an operator on its device."""
    qualified = npu.OPERATORS[name].qualified_name
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "PrivateUse1"))


def systems(
    device: str, missing: tuple[str, ...], collectives: bool, graphs: bool
) -> tuple[System, ...]:
    """The eight optimizations and whether each can run on an NPU here."""

    def system(name: str, *operators: str, group: bool = False, captured: bool = False) -> System:
        if device != "npu":
            return System(name, False, f"no NPU here; the {device} runs the same graph")
        absent = [operator for operator in operators if operator in missing]
        if absent:
            return System(name, False, f"torch_npu here has no {', '.join(absent)}")
        if group and not collectives:
            return System(name, False, "HCCL was not found")
        if captured and not graphs:
            return System(name, False, "torch_npu here has no NPUGraph")
        return System(name, True, "everything it needs is here")

    return (
        system("rope", "npu_rotary_mul", "npu_apply_rotary_pos_emb"),
        system("AddRMSNormQuant", *FUSED_NORMS),
        system("FlashComm_v1", group=True),
        system("matmul + reduce_scatter", *COLLECTIVE_MATMULS, group=True),
        system("weight prefetch", "npu_prefetch"),
        system("zero-like elimination"),
        system("full graph", captured=True),
        system("asynchronous scheduling", captured=True),
    )


def advice(
    versions: Mapping[str, str | None],
    device: str,
    problem: str | None,
    missing: tuple[str, ...],
    mismatch: str | None,
    declared: Mapping[str, bool],
) -> tuple[str, ...]:
    """What to install for an NPU, in the order to do it in."""
    pair = pair_of(torch.__version__)
    wanted = ".".join(map(str, minor(torch.__version__))) + ".*" if pair is None else pair.torch_npu
    found = []
    if pair is None:
        tested = ", ".join(pair.torch for pair in PAIRS)
        found.append(
            f"Install a torch that the tests run with, {tested}; {torch.__version__} is none."
        )
    if versions["CANN"] is None:
        found.append("Install CANN and its driver, and run its `set_env.sh` in this shell.")
    if versions["torch-npu"] is None:
        found.append(f"Install torch_npu: `pip install torch-npu=={wanted}`.")
    if mismatch is not None:
        found.append(f"{mismatch}: `pip install torch-npu=={wanted}`.")
    if problem is not None:
        found.append(f"Mend torch_npu, which does not import: {problem}")
    if device == "npu" and missing:
        found.append(f"Upgrade torch_npu: it has no {', '.join(missing)}.")
    if not all(declared.values()):
        absent = ", ".join(name for name, there in declared.items() if not there)
        found.append(f"Install this package, which declares {absent}: `pip install -e .` here.")
    if versions["vllm"] is not None and versions["vllm-ascend"] is None and device == "npu":
        found.append("Install vllm-ascend, vLLM's platform for NPUs: `pip install vllm-ascend`.")
    return (*found, *vllm_ascend_advice(versions))


def vllm_ascend_advice(versions: Mapping[str, str | None]) -> tuple[str, ...]:
    """What vllm-ascend wants beside it: it imports names that one minor release of vLLM has."""
    ascend, vllm = versions["vllm-ascend"], versions["vllm"]
    if ascend is None:
        return ()
    rows = [pair for pair in PAIRS if pair.vllm_ascend and minor(pair.vllm_ascend) == minor(ascend)]
    if not rows or (vllm is not None and minor(vllm) == minor(rows[0].vllm)):
        return ()
    beside = f"vllm-ascend {ascend} runs beside vLLM {rows[0].vllm}"
    return (f"{beside}, not {vllm}: `pip install vllm=={rows[0].vllm}`.",)
