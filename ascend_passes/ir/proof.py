"""Does a condition hold for certain, whatever the symbolic sizes in it turn out to be?"""

from __future__ import annotations

from typing import Any


def prove(condition: Any) -> bool:
    """Whether a condition holds for certain; a symbolic one must follow from the shape rules."""
    if isinstance(condition, bool):
        return condition
    # It loads sympy, which nobody needs for plain sizes.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(condition))
