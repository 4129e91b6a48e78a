"""Every option in one frozen dataclass: type, default, environment variable and a sentence.

The documentation page of the options and the errors for unknown names are made from the fields.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any

CUDAGRAPH_MODES = ("NONE", "FULL_DECODE_ONLY", "FULL")
WARM_UPS = ("lazy", "eager")
EXECUTORS = ("auto", "eager", "inductor", "npugraph_ex", "torchair")
MEBIBYTE = 1024 * 1024


class OptionError(ValueError):
    """An option that does not exist or has a value that it cannot have; the text lists what is
    valid."""


def option(default: Any, environment: str, sentence: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that carries its environment variable, its sentence and its valid
    values."""
    metadata = {"environment": environment, "sentence": sentence, "choices": choices}
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
        "What runs the rewritten graph; auto is npugraph_ex on NPU and eager elsewhere.",
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
    expect: Mapping[str, int] = option(
        {},
        "ASCEND_PASSES_EXPECT",
        "Counts that must be reached, `add_rms_norm_quant=127`; less is an error.",
    )
    strict: bool = option(
        False,
        "ASCEND_PASSES_STRICT",
        "A pass that fails or leaves a candidate is an error, not a report.",
    )
    validate: bool = option(
        False,
        "ASCEND_PASSES_VALIDATE",
        "Compute each rewrite before and after on sampled inputs in float64 while compiling, and "
        "leave out what differs.",
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

        Raises:
            OptionError: an unknown name, a wrong type or a value outside its choices.
        """
        if isinstance(given, Options):
            return given
        given = dict(given or {})
        known = {f.name: f for f in fields(cls)}
        for name in given:
            if name not in known:
                raise OptionError(unknown(name, known))
        values = {
            name: parse(f, os.environ[f.metadata["environment"]], f.metadata["environment"])
            for name, f in known.items()
            if os.environ.get(f.metadata["environment"])
        }
        values.update(
            {name: check(known[name], value, f"option {name!r}") for name, value in given.items()}
        )
        return cls(**values)

    @property
    def prefetch(self) -> bool:
        """Whether MLP weights are to be prefetched: either of the two switches."""
        return self.prefetch_mlp or self.dense_optimize


def unknown(name: str, known: Mapping[str, Any]) -> str:
    """The error text for an option that does not exist, with the nearest name first."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown option {name!r}.{hint} Valid options: {', '.join(sorted(known))}."


def kind(f: Field[Any]) -> type:
    """The type of an option's values, read off its default."""
    return Mapping if f.name == "expect" else type(f.default)


def check(f: Field[Any], value: Any, origin: str) -> Any:
    """`value` if the option may have it.

    Raises:
        OptionError: a wrong type, a negative count, or a value outside the choices.
    """
    wanted = kind(f)
    right = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if not right:
        name = "dict of rule name to count" if wanted is Mapping else wanted.__name__
        raise OptionError(f"{origin} must be a {name}, not {value!r} ({type(value).__name__}).")
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise OptionError(f"{origin} is {value!r}; valid values: {', '.join(choices)}.")
    lowest = -1 if f.name == "flashcomm_tokens" else 0
    if wanted is int and value < lowest:
        raise OptionError(f"{origin} is {value}; it must be at least {lowest}.")
    return MappingProxyType(dict(value)) if wanted is Mapping else value


def parse(f: Field[Any], text: str, origin: str) -> Any:
    """The value that an environment variable's text stands for; errors as in `check`."""
    wanted = kind(f)
    if wanted is bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        if text.lower() not in words:
            raise OptionError(f"{origin} is {text!r}; write 1 or 0.")
        return words[text.lower()]
    try:
        if wanted is int:
            return check(f, int(text), origin)
        if wanted is Mapping:
            pairs = (part.split("=") for part in text.split(","))
            return MappingProxyType({name.strip(): int(count) for name, count in pairs})
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        example = "a whole number" if wanted is int else "name=count pairs, separated by commas"
        raise OptionError(f"{origin} is {text!r}; write {example}.") from None
    return check(f, text, origin)


def switched_on(name: str, switches: str, default: bool = True) -> bool:
    """Whether `name` is on under switches such as `-swiglu,+rms_norm`; the last one that fits
    wins."""
    on = default
    for word in filter(None, (part.strip() for part in switches.split(","))):
        if word[0] not in "+-":
            raise OptionError(f"{word!r} must start with + or -, as in `-swiglu,+rms_norm`.")
        if word[1:] in (name, "*"):
            on = word[0] == "+"
    return on
