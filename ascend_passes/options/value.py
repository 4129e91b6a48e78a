"""Every option in one frozen dataclass: type, default, environment variable and a sentence.

The documentation page of the options and the errors for unknown names are made from the fields.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from ascend_passes.options.types import (
    HIGHEST,
    checked_value,
    nearest,
    parse,
    shown,
    split_words,
    unknown,
)
from ascend_passes.options.types import OptionError as OptionError

CUDAGRAPH_MODES = ("NONE", "FULL_DECODE_ONLY", "FULL")
WARM_UPS = ("lazy", "eager")
EXECUTORS = ("auto", "eager", "inductor", "npugraph_ex", "torchair")
PREFIX = "ASCEND_PASSES_"
"""Of environment variables that are ours."""
OF_TESTS = ("TEST_SEED", "SEED", "SLOW", "TRAINING_STEPS", "CONFORMANCE", "VLLM_VENV")
"""What this package's own tests read, without the prefix."""
MEBIBYTE = 1024 * 1024
MOST_CAPTURED = 65536
"""Tokens of the largest captured size; the default sizes up to it are 4,115 graphs."""


def option(
    default: Any,
    environment: str,
    sentence: str,
    choices: tuple[str, ...] = (),
    lowest: int = 0,
    highest: int = HIGHEST,
) -> Any:
    """A dataclass field that carries its environment variable, its sentence and its valid
    values."""
    metadata: dict[str, Any] = {
        "environment": environment,
        "sentence": sentence,
        "choices": choices,
    }
    metadata |= {"lowest": lowest, "highest": highest}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: MappingProxyType(dict(default)), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """What the user may ask of `ascend_dense`; `Options.read` merges arguments and environment."""

    rules: str = option(
        "", "ASCEND_PASSES_RULES", "Rules to switch: `-swiglu,+rms_norm`; `-*` switches all off."
    )
    passes: str = option(
        "", "ASCEND_PASSES_PASSES", "Whole-graph passes to switch, written like `rules`."
    )
    rule_path: str = option(
        "", "ASCEND_PASSES_PATH", "Folders with rule files of your own, separated by `:`."
    )
    flashcomm: bool = option(
        False,
        "VLLM_ASCEND_ENABLE_FLASHCOMM1",
        "Sequence parallel prefill: all_reduce becomes reduce_scatter and all_gather.",
    )
    flashcomm_tokens: int = option(
        1000,
        "ASCEND_PASSES_FLASHCOMM_TOKENS",
        "FlashComm above this many tokens (vllm-ascend's number) where a gain is estimated; -1: "
        "wherever one is.",
        lowest=-1,
    )
    matmul_reduce_scatter: bool = option(
        True,
        "VLLM_ASCEND_ENABLE_MATMUL_REDUCE_SCATTER",
        "Where FlashComm acts, fuse matmul with reduce_scatter and all_gather with matmul.",
    )
    matmul_reduce_scatter_tokens: int = option(
        1000,
        "ASCEND_PASSES_MATMUL_REDUCE_SCATTER_TOKENS",
        "Fuse matmul with its collective above this many tokens.",
    )
    matmul_all_reduce: bool = option(
        False,
        "VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE",
        "Where FlashComm does not act, fuse matmul with all_reduce above as many tokens.",
    )
    prefetch_mlp: bool = option(
        False, "VLLM_ASCEND_ENABLE_PREFETCH_MLP", "Prefetch MLP weights into L2 on a side stream."
    )
    dense_optimize: bool = option(
        False,
        "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE",
        "The tutorial's switch for dense models; weight prefetch acts when either is set.",
    )
    prefetch_tokens: int = option(
        500,
        "ASCEND_PASSES_PREFETCH_TOKENS",
        "Prefetch below this many tokens (vllm-ascend's number).",
    )
    gate_up_prefetch_size: int = option(
        18 * MEBIBYTE,
        "VLLM_ASCEND_MLP_GATE_UP_PREFETCH_SIZE",
        "Bytes of gate_up weight to prefetch in each layer.",
    )
    down_prefetch_size: int = option(
        18 * MEBIBYTE,
        "VLLM_ASCEND_MLP_DOWN_PREFETCH_SIZE",
        "Bytes of down weight to prefetch in each layer.",
    )
    cudagraph_mode: str = option(
        "NONE",
        "ASCEND_PASSES_CUDAGRAPH_MODE",
        "Capture of whole steps: none, decode steps only, or every size up to the limit.",
        CUDAGRAPH_MODES,
    )
    capture_sizes: str = option(
        "",
        "ASCEND_PASSES_CAPTURE_SIZES",
        "Token counts to capture, `1,2,4,8`; empty for vLLM's: 1, 2, 4, every 8 below 256, then "
        "every 16 up to the limit.",
    )
    capture_limit: int = option(
        512,
        "ASCEND_PASSES_CAPTURE_LIMIT",
        "The largest token count that is captured (vLLM's number).",
        highest=MOST_CAPTURED,
    )
    capture_warm_up: str = option(
        "lazy",
        "ASCEND_PASSES_CAPTURE_WARM_UP",
        "When a size is captured: at its second call, or at its first, and by a `Decoder` before "
        "any prompt, with a progress bar.",
        WARM_UPS,
    )
    executor: str = option(
        "auto",
        "ASCEND_PASSES_EXECUTOR",
        "What runs the rewritten graph; auto is npugraph_ex on NPU, Inductor around our Triton "
        "kernels on CUDA, and on CPU eager, with loops of Inductor's after 4 calls, bit for bit "
        "the references.",
        EXECUTORS,
    )
    soc: str = option(
        "Ascend910B",
        "ASCEND_PASSES_SOC",
        "The chip whose documented limits apply when no NPU is here to ask.",
    )
    profile: str = option(
        "atlas-800-a2",
        "ASCEND_PASSES_PROFILE",
        "Device profile of the cost model, or a file made by `tune`.",
    )
    keep_nan: bool = option(
        False,
        "ASCEND_PASSES_KEEP_NAN",
        "Leave float what a stored scale would quantize, since int8 has no NaN; to find its cause.",
    )
    expect: Mapping[str, int] = option(
        {},
        "ASCEND_PASSES_EXPECT",
        "Counts that must be reached, `add_rms_norm_quant=127`; less is an error.",
    )
    strict: bool = option(
        False,
        "ASCEND_PASSES_STRICT",
        "A pass that fails, or leaves a candidate that an operator could have taken, is an error.",
    )
    validate: bool = option(
        False,
        "ASCEND_PASSES_VALIDATE",
        "Compute each rewrite before and after on sampled inputs in float64 while compiling, and "
        "leave out what differs.",
    )
    verify_each_stage: bool = option(
        False,
        "ASCEND_PASSES_VERIFY_EACH_STAGE",
        "Check the graph behind each stage: order, the values noted at its nodes, its results' "
        "form; a stage that breaks one is left out.",
    )
    explain: bool = option(
        False, "ASCEND_PASSES_EXPLAIN", "Print the report after each compilation."
    )
    dump: str = option(
        "", "ASCEND_PASSES_DUMP", "Folder for the graph before and after, as runnable Python."
    )
    off: bool = option(False, "ASCEND_PASSES_OFF", "Leave every graph as it is.")

    @classmethod
    def read(cls, given: Mapping[str, Any] | Options | None = None) -> Options:
        """Defaults, then environment variables, then `given`, which wins.

        Names of rules, passes and profiles are looked up by `option_values.checked_options`.

        Raises:
            OptionError: an unknown name, a wrong type, or a value that the option cannot have.
        """
        if isinstance(given, Options):
            return given
        return cls(**{**from_environment(), **checked(given or {})})

    @property
    def prefetch(self) -> bool:
        """Whether MLP weights are to be prefetched: either of the two switches."""
        return self.prefetch_mlp or self.dense_optimize


def from_environment() -> dict[str, Any]:
    """The options that environment variables set, with a warning of each that none reads; errors as
    in `parse`."""
    variables = {f.metadata["environment"]: f for f in fields(Options)}
    for name in sorted(os.environ.keys() - {PREFIX + word for word in OF_TESTS} - {*variables}):
        if name.startswith(PREFIX):
            hint = nearest(name, variables) or " docs/options.md names all."
            sentence = f"ascend_dense: no option reads the environment variable {name}.{hint}"
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    return {
        f.name: parse(f, os.environ[variable], variable)
        for variable, f in variables.items()
        if os.environ.get(variable)
    }


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name; an unknown name is an error, others as in `checked`."""
    if not isinstance(given, Mapping):
        raise OptionError(f"options must be a dict of option to value, not {shown(given)}.")
    known = {f.name: f for f in fields(Options)}
    for name in given:
        if name not in known:
            raise OptionError(unknown(name, known))
    return {
        name: checked_value(known[name], value, f"option {name!r}") for name, value in given.items()
    }


def switched_on(name: str, switches: str, default: bool = True, family: str = "") -> bool:
    """Whether `name` is on under switches such as `-swiglu,+rms_norm`; the last one that fits it,
    or the family that it belongs to, wins."""
    on = default
    for sign, switched in switch_words(switches):
        if switched in (name, family or name, "*"):
            on = sign == "+"
    return on


def switch_words(switches: str) -> Iterator[tuple[str, str]]:
    """Sign and name of each switch; a word without its sign is an OptionError."""
    for word in filter(None, (part.strip() for part in split_words(switches))):
        if word[0] not in "+-":
            raise OptionError(f"{shown(word)} must start with + or -, as in `-swiglu,+rms_norm`.")
        yield word[0], word[1:]
