"""Options of the compiler, drawn at random."""

from __future__ import annotations

from random import Random
from typing import Any

from ascend_passes.cli.rules import every_named
from ascend_passes.compile.stages import STAGES
from ascend_passes.options.value import Options

SOCS = ("Ascend910B", "Ascend910_93", "Ascend910_95")
PLAIN = 0.45
"""So many programs are compiled as most users do: with the defaults."""

OWN = "+qk_norm_rope,+decode_attention"
"""Passes that are off on a CPU, whose operators have a reference there."""
OWN_RULES = "+muls_add"
"""Rules that are off unless they are asked for."""


def rule_names() -> list[str]:
    """Every rule and recognition of the package."""
    return [one.name for one in every_named(Options())]


def switches(random: Random, names: list[str], most: int) -> str:
    """Some of them switched off."""
    chosen = random.sample(names, random.randint(1, most))
    return ",".join(f"-{name}" for name in sorted(set(chosen)))


def drawn_options(random: Random) -> tuple[tuple[str, Any], ...]:
    """Options as pairs, sorted; often none."""
    if random.random() < PLAIN:
        return ()
    found: dict[str, Any] = {}
    if random.random() < 0.3:
        found["rules"] = switches(random, rule_names(), 6)
    if random.random() < 0.2:
        found["rules"] = ",".join([*filter(None, [found.get("rules")]), OWN_RULES])
    if random.random() < 0.25:
        found["passes"] = switches(random, sorted({stage.name for stage in STAGES}), 3)
    if random.random() < 0.5:
        found["passes"] = ",".join([*filter(None, [found.get("passes")]), OWN])
    if random.random() < 0.45:
        found["cudagraph_mode"] = random.choice(("FULL", "FULL_DECODE_ONLY", "FULL"))
        found["capture_warm_up"] = random.choice(("lazy", "eager"))
        if random.random() < 0.3:
            found["capture_sizes"] = random.choice(("1", "1,2,4,8", "2,16", "32"))
    if random.random() < 0.3:
        found[random.choice(("prefetch_mlp", "dense_optimize"))] = True
    if random.random() < 0.3:
        found["soc"] = random.choice(SOCS)
    if random.random() < 0.15:
        found["executor"] = "eager"
    if random.random() < 0.04:
        found["strict"] = True
    if random.random() < 0.03:
        found["off"] = True
    if random.random() < 0.05:
        found["flashcomm"] = True
    return tuple(sorted(found.items()))
