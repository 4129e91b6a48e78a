"""What a vLLM configuration asks of us: as its backend, or as passes in another compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ascend_passes.options import OptionError, Options
from ascend_passes.registry import identity

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
        additional = vllm_config.additional_config
        section = additional.get(SECTION) if isinstance(additional, dict) else None
        as_backend = vllm_config.compilation_config.backend == BACKEND
        if section is None and not as_backend:
            return None
        return cls(read_options(section), as_backend)


def read_options(section: Any) -> Options:
    """Options from `additional_config` and the environment.

    vLLM decides what is captured, so that capture here is always off.

    Raises:
        OptionError: see `Request.read`.
    """
    if section is not None and not isinstance(section, Mapping):
        raise OptionError(
            f"additional_config[{SECTION!r}] must be a dictionary of options, not {section!r}."
        )
    try:
        options = Options.read(section)
    except OptionError as error:
        raise OptionError(f"additional_config[{SECTION!r}]: {error}") from None
    return dataclasses.replace(options, cudagraph_mode="NONE")


def options_of(vllm_config: Any) -> Options:
    """The options of a configuration that went through `Request.read` before."""
    additional = vllm_config.additional_config
    return read_options(additional.get(SECTION) if isinstance(additional, dict) else None)


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
