"""Operators of somebody else, defined for the time of some tests with their schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def registered(
    schemas: Mapping[str, Sequence[str]], kernels: Mapping[str, Sequence[Callable[..., Any]]]
) -> Iterator[None]:
    """Namespace -> schemas, and a kernel for each; they are gone behind it."""
    libraries = []
    for namespace, texts in schemas.items():
        library = torch.library.Library(namespace, "FRAGMENT")
        libraries.append(library)
        for schema, kernel in zip(texts, kernels[namespace], strict=True):
            name = schema.split("(")[0]
            library.define(schema)
            library.impl(name, kernel, "CPU")
            fake = (lambda *_, **__: None) if schema.endswith("()") else kernel
            torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    yield
    torch._dynamo.reset()
    for library in libraries:
        library._destroy()
