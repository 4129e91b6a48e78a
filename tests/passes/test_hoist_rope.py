"""One lookup of cosines and sines serves all layers that share it, and no others."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

import ascend_passes
from ascend_passes import npu
from ascend_passes.engine.normalize import normalize
from ascend_passes.frontends.vllm_operators import vllm_operators
from ascend_passes.ir.graph import Context
from ascend_passes.ir.trace import aot_graph, compile_inference
from ascend_passes.passes.constants.facts import facts_of
from ascend_passes.passes.deduplicate import deduplicate
from ascend_passes.passes.rope.hoist import hoist_rope, share_tables
from ascend_passes.report.value import Report

aten = torch.ops.aten
TOKENS, HEADS, SIZE, LENGTH = 5, 2, 64, 3000


def table(base: float = 10000.0, dtype: torch.dtype = torch.float32) -> Tensor:
    angles = torch.outer(torch.arange(LENGTH), base ** (-torch.arange(0, SIZE, 2) / SIZE))
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)


def rewritten(gm: fx.GraphModule, context: Context = Context()) -> Report:  # noqa: B008 - frozen
    normalize(gm.graph)
    share_tables(gm.graph, context)
    report = vllm_operators(gm.graph, context) + hoist_rope(gm.graph, context)
    report = report + deduplicate(gm.graph, context)
    gm.graph.lint()
    gm.recompile()
    return report


def compiled(function: Callable, *inputs: Tensor) -> tuple[fx.GraphModule, Report]:
    """The rewritten graph, after a comparison with eager, bit by bit."""
    found = []

    def compiler(gm: fx.GraphModule, _: object) -> Callable:
        found[:] = [gm, rewritten(gm)]
        return gm

    torch._dynamo.reset()
    with torch.no_grad():
        call = torch.compile(function, backend=lambda g, i: compile_inference(g, i, compiler))
        got, wanted = call(*copy.deepcopy(inputs)), function(*copy.deepcopy(inputs))
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    return found[0], found[1]


def lookups(gm: fx.GraphModule) -> int:
    return sum(
        node.target in (aten.index_select.default, torch.ops.npu.npu_mrope.default)
        for node in gm.graph.nodes
    )


def inputs_of(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    positions = torch.randint(0, LENGTH, (TOKENS,))
    return positions, torch.randn(TOKENS, HEADS * SIZE).to(dtype), table(dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["half", "interleave"])
def test_layers_of_mrope_share_one_lookup(dtype, mode):
    def step(positions, x, cache):
        for _ in range(3):
            q, k = npu.npu_mrope(positions, x, x * 2, cache, SIZE, rotary_mode=mode)
            x = q + k
        return x

    gm, report = compiled(step, *inputs_of(dtype))
    assert report.fired["hoist_rope"] == 3 and report.misses == ()
    assert lookups(gm) == 1
    rotations = gm.graph.find_nodes(op="call_function", target=torch.ops.npu.npu_rotary_mul.default)
    assert len(rotations) == 6
    assert len({node.args[1:3] for node in rotations}) == 1


def test_one_layer_keeps_its_operator():
    gm, report = compiled(
        lambda positions, x, cache: npu.npu_mrope(positions, x, x, cache, SIZE), *inputs_of()
    )
    assert report.fired.get("hoist_rope", 0) == 0
    assert gm.graph.find_nodes(op="call_function", target=torch.ops.npu.npu_mrope.default)


def test_what_differs_stays_apart():
    def step(positions, x, cache):
        a, _ = npu.npu_mrope(positions, x, x, cache, SIZE)
        b, _ = npu.npu_mrope(positions, x, x, cache, SIZE)
        c, _ = npu.npu_mrope(positions, x, x, cache * 1.1, SIZE)  # scaled, as YaRN's
        d, _ = npu.npu_mrope(positions + 1, x, x, cache, SIZE)
        e, _ = npu.npu_mrope(positions, x, x, cache, SIZE, rotary_mode="interleave")
        f, _ = npu.npu_mrope(positions, x, x, cache[:, :32].contiguous(), SIZE)
        return a + b, c, d, e, f

    gm, report = compiled(step, *inputs_of())
    assert report.fired["hoist_rope"] == 2
    assert lookups(gm) == 5


@pytest.mark.parametrize("mode", ["half", "interleave"])
def test_rotations_of_a_part_of_each_head_share_one_lookup(mode):
    def step(positions, x, cache):
        part = cache[:, :32].contiguous()
        a, _ = npu.npu_mrope(positions, x, x, part, SIZE, rotary_mode=mode)
        b, _ = npu.npu_mrope(positions, x * 2, x, part, SIZE, rotary_mode=mode)
        return a, b

    gm, report = compiled(step, *inputs_of())
    assert report.fired["hoist_rope"] == 2
    assert lookups(gm) == 1


def test_sections_are_refused():
    def step(positions, x, cache):
        rows = positions.expand(3, TOKENS)
        a, _ = npu.npu_mrope(rows, x, x, cache, SIZE, mrope_section=[16, 8, 8])
        b, _ = npu.npu_mrope(rows, x, x * 2, cache, SIZE, mrope_section=[16, 8, 8])
        return a + b

    _, report = compiled(step, *inputs_of())
    reasons = {miss.reason for miss in report.misses}
    assert reasons == {"its sections take the angles from three rows of positions"}


@pytest.fixture(scope="module", autouse=True)
def mutating_operator():
    """vLLM's, for this file alone."""

    def rotate_in_place(positions, query, key, head_size, cos_sin_cache, is_neox):
        mode = "half" if is_neox else "interleave"
        for x in (query, key):
            x.copy_(npu.npu_mrope(positions, x, x, cos_sin_cache, head_size, rotary_mode=mode)[0])

    with torch.library._scoped_library("_C", "FRAGMENT") as library:
        library.define(
            "rotary_embedding(Tensor positions, Tensor(a!) query, Tensor(b!)? key,"
            " SymInt head_size, Tensor cos_sin_cache, bool is_neox) -> ()"
        )
        library.impl("rotary_embedding", rotate_in_place, "CPU")
        library._register_fake("rotary_embedding", lambda *arguments: None)
        yield
        torch._dynamo.reset()


@pytest.mark.parametrize("is_neox", [True, False])
def test_layers_of_vllms_mutating_operator_share_one_lookup(is_neox):
    def step(positions, x, cache):
        for _ in range(3):
            q, k = x * 2, x * 3
            torch.ops._C.rotary_embedding(positions, q, k, SIZE, cache, is_neox)
            x = q + k
        return x

    gm, _ = compiled(step, *inputs_of())
    assert lookups(gm) == 1
    assert not any("auto_functionalized" in str(node.target) for node in gm.graph.nodes)


class Layers(nn.Module):
    def __init__(self, tables: list[Tensor], mutating: bool) -> None:
        super().__init__()
        self.mutating = mutating
        for index, each in enumerate(tables):
            self.register_buffer(f"cache_{index}", each)
        self.count = len(tables)

    def forward(self, positions: Tensor, x: Tensor) -> Tensor:
        for index in range(self.count):
            cache = getattr(self, f"cache_{index}")
            q, k = x * 2, x * 3
            if self.mutating:
                torch.ops._C.rotary_embedding(positions, q, k, SIZE, cache, True)
            else:
                q, k = npu.npu_mrope(positions, q, k, cache, SIZE)
            x = q + k
        return x


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from([10000.0, 1000000.0, 500.0]), min_size=2, max_size=5), st.booleans()
)
def test_tables_of_equal_content_are_one(bases, mutating):
    model = Layers([table(base) for base in bases], mutating)
    positions, x, _ = inputs_of()
    flat = []

    def compiler(gm: fx.GraphModule, _: object) -> Callable:
        def run(*inputs: Tensor) -> object:
            flat[:] = [gm, inputs]
            return copy.deepcopy(gm)(*inputs)

        return run

    torch._dynamo.reset()
    with torch.no_grad():
        wanted = torch.compile(model, backend=lambda g, i: compile_inference(g, i, compiler))(
            positions, x
        )
    gm, inputs = flat
    names = [node.target for node in gm.graph.find_nodes(op="placeholder")]
    buffers = {id(buffer) for buffer in model.buffers()}
    constants = {n: t for n, t in zip(names, inputs, strict=True) if id(t) in buffers}
    assert len(constants) == len(bases)
    rewritten(gm, Context(constants=constants))
    assert lookups(gm) == len(set(bases))
    assert torch.equal(gm(*inputs)[0], wanted)
    facts = facts_of(gm.graph)
    assert len(facts) == len(bases) - len(set(bases))
    assert all(fact.true(constants) for fact in facts)
    for fact in facts[:1]:
        constants[fact.names[1]].mul_(2)
        assert not fact.true(constants)


def test_qwen3_computes_cosines_once_and_shapes_them_once():
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    gm = aot_graph(Qwen3ForCausalLM(config).eval(), torch.randint(0, 97, (1, 5)), use_cache=False)
    report = rewritten(gm)
    cosines = gm.graph.find_nodes(op="call_function", target=aten.cos.default)
    assert len(cosines) == 1
    (shaped,) = {user for user in aliases(cosines[0]) if user.target is aten.unsqueeze.default}
    assert len(shaped.users) == 6
    assert report.fired["deduplicate"] >= 4


ROPES = {
    "plain": {"rope_type": "default", "rope_theta": 10000.0},
    "draft": {"rope_type": "default", "rope_theta": 10000.0},
    "base": {"rope_type": "default", "rope_theta": 500000.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
}


class Rotaries(nn.Module):
    """transformers' own rotary modules of several configurations, at the same positions."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.ropes = nn.ModuleList(
            Qwen3RotaryEmbedding(
                Qwen3Config(
                    hidden_size=32, num_attention_heads=2, head_dim=16, rope_parameters=ROPES[name]
                )
            )
            for name in names
        )

    def forward(self, ids: Tensor, positions: Tensor) -> list[Tensor]:
        x = self.embedding(ids)
        return [x.sum(), *(sum(rope(x, positions)) for rope in self.ropes)]


@pytest.mark.parametrize(
    ("names", "lookups"),
    [
        (["plain", "plain"], 1),
        (["plain", "draft"], 1),  # two models, equal frequencies
        (["plain", "yarn"], 2),
        (["plain", "base", "yarn", "draft", "yarn"], 3),
    ],
)
def test_captured_lookups_are_shared_by_content_and_follow_it(names, lookups):
    """The tables stay where they are: never copied into the graph, and changes of them are seen."""
    model = Rotaries(names).eval()
    torch._dynamo.reset()
    ascend_passes.reset()
    options = {"cudagraph_mode": "FULL", "capture_sizes": "3"}
    compiled = torch.compile(model, backend="ascend_dense", options=options)

    def check_step(first: int) -> None:
        ids, positions = torch.randint(0, 50, (1, 3)), torch.arange(first, first + 3)[None]
        with torch.no_grad():
            for got, wanted in zip(compiled(ids, positions), model(ids, positions), strict=True):
                torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)

    for first in (0, 7, 2000):
        check_step(first)
    (report,) = ascend_passes.reports()
    assert report.graph_after.count("aten.cos.default") == lookups
    assert report.fired["capture"] == 1
    addresses = [rope.inv_freq.data_ptr() for rope in model.ropes]
    with torch.no_grad():
        for rope in model.ropes:
            rope.inv_freq.mul_(0.5)
    for first in (0, 7):
        check_step(first)
    assert [rope.inv_freq.data_ptr() for rope in model.ropes] == addresses


def aliases(node: fx.Node) -> set[fx.Node]:
    """Everything computed from `node` up to the rotations."""
    found = set()
    stack = [node]
    while stack:
        for user in stack.pop().users:
            found.add(user)
            if user.target is not aten.unsqueeze.default:
                stack.append(user)
    return found
