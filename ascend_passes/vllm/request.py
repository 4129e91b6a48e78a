"""What a vLLM configuration asks of us: as its backend, or as passes in another compiler."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ascend_passes.compile.option_values import checked_options
from ascend_passes.engine.registry import identity
from ascend_passes.engine.rule import RuleError
from ascend_passes.options.value import OptionError, Options

BACKEND = "ascend_dense"
SECTION = "ascend_passes"
IDENTITY = "ascend_passes_identity"


@dataclass(frozen=True)
class Request:
    """A user's wish for our passes."""

    options: Options
    as_backend: bool
    """Whether `backend` names us; else the passes join the compiler that vLLM uses anyway."""

    @classmethod
    def read(cls, vllm_config: Any) -> Request | None:
        """The wish in a configuration, or None where it has none.

        Raises:
            OptionError: an option that does not exist or a bad value; vLLM shows it as its own
                validation error.
        """
        section = section_of(vllm_config)
        as_backend = vllm_config.compilation_config.backend == BACKEND
        if section is None and not as_backend:
            return None
        return cls(options_from_config(section), as_backend)


def options_from_config(section: Any) -> Options:
    """Options from `additional_config` and the environment; vLLM decides what is captured, so that
    capture is off in them.

    Raises:
        OptionError: see `Request.read`.
    """
    return dataclasses.replace(read_as_given(section), cudagraph_mode="NONE")


def read_as_given(section: Any) -> Options:
    """`checked_options`, with what is said of capture.

    Raises:
        OptionError: see `Request.read`.
    """
    if section is not None and not isinstance(section, Mapping):
        raise OptionError(
            f"additional_config[{SECTION!r}] must be a dictionary of options, not {section!r}."
        )
    try:
        return checked_options(section)
    except (OptionError, RuleError) as error:
        raise OptionError(f"additional_config[{SECTION!r}]: {error}") from None


def asked(vllm_config: Any) -> bool:
    """Whether a configuration that went through `Request.read` asks for our passes."""
    return section_of(vllm_config) is not None


def refuse_misspelling(backend: str) -> None:
    """Raise ValueError for a name that is ours but for a letter or two, or the package's.

    vLLM takes a name that it does not know for a Python object, and its error is about that; the
    package is one.
    """
    near = backend != BACKEND and difflib.get_close_matches(backend, [BACKEND], cutoff=0.8)
    if near or backend.replace("-", "_") == SECTION:
        raise ValueError(f"unknown backend {backend!r}. Did you mean {BACKEND!r}?")


def section_of(vllm_config: Any) -> Any:
    """What the user wrote into `additional_config` for us, or None."""
    additional = vllm_config.additional_config
    return additional.get(SECTION) if isinstance(additional, dict) else None


def given_options(vllm_config: Any) -> Options:
    """`configured_options`, with what the user says of capture."""
    return read_as_given(section_of(vllm_config))


def configured_options(vllm_config: Any) -> Options:
    """The options of a configuration that went through `Request.read` before."""
    return options_from_config(section_of(vllm_config))


def stamp(vllm_config: Any, options: Options) -> None:
    """Put our identity where every cache key of vLLM includes it.

    vLLM hashes `additional_config` into the keys of all its compile caches; the key of its
    ahead-of-time artifacts has no other part that an out-of-tree compiler could reach.
    """
    additional = vllm_config.additional_config
    if isinstance(additional, dict):
        section = dict(additional.get(SECTION) or {})
        vllm_config.additional_config = {
            **additional,
            SECTION: section,
            IDENTITY: identity(options),
        }
