"""Whatever is switched off, the rest of the rewriting is right: rules and identities at random."""

from __future__ import annotations

from cases import FORCED
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ranks import Ranks
from test_stacks import KINDS, bound, run

from ascend_passes.cli.rules import every_named
from ascend_passes.options.value import Options
from tests.slow import slow

IDENTITIES = [
    "sequence_parallel.sink_add",
    "sequence_parallel.sink_pointwise",
    "sequence_parallel.sink_norm",
    "sequence_parallel.sink_quantize",
    "sequence_parallel.sink_view",
    "sequence_parallel.sink_columns",
    "sequence_parallel.chunk_replicated",
    "sequence_parallel.cancel_chunk",
    "sequence_parallel.gather_early",
    "sequence_parallel.pad_early",
    "matmul_collective.reduce_scatter",
    "matmul_collective.all_gather",
    "matmul_collective.all_reduce",
]
RULES = [one.name for one in every_named(Options())]
SHAPES = [(2,), (5,), (8,), (1, 6), (3, 3)]
rules_off = st.just(set(RULES)) | st.sets(st.sampled_from(RULES))
identities_off = st.sets(st.sampled_from(IDENTITIES))
quiet = HealthCheck.function_scoped_fixture


def check(
    ranks: Ranks, off: set[str], rules: set[str], name: str, shape: tuple[int, ...], dynamic: bool
) -> None:
    passes = ",".join([FORCED, *(f"-{identity}" for identity in sorted(off))])
    switches = ",".join(f"-{rule}" for rule in sorted(rules))
    kind = KINDS[name]
    most = bound(kind, ranks.world, rounding=rules != set(RULES))
    for outcome in run(ranks, kind, [shape], dynamic, passes, rules=switches):
        assert outcome.error <= most


@given(
    off=identities_off,
    rules=rules_off,
    name=st.sampled_from(sorted(KINDS)),
    shape=st.sampled_from(SHAPES),
    dynamic=st.booleans(),
)
@example(off=set(), rules=set(), name="dynamic", shape=(5,), dynamic=True)
@settings(max_examples=15, deadline=None, suppress_health_check=[quiet])
def test_two_ranks(
    two: Ranks, off: set[str], rules: set[str], name: str, shape: tuple[int, ...], dynamic: bool
) -> None:
    check(two, off, rules, name, shape, dynamic)


@slow
@given(
    off=identities_off,
    rules=rules_off,
    name=st.sampled_from(sorted(KINDS)),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=4, deadline=None, suppress_health_check=[quiet])
def test_four_ranks(
    four: Ranks, off: set[str], rules: set[str], name: str, shape: tuple[int, ...]
) -> None:
    check(four, off, rules, name, shape, dynamic=True)
