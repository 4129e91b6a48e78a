"""Cache writes happen in place, and only where nobody can tell the difference."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM, StaticCache

from ascend_passes.engine.normalize import normalize
from ascend_passes.ir import traits
from ascend_passes.ir.graph import Context
from ascend_passes.ir.trace import compile_inference
from ascend_passes.ir.traits import Traits
from ascend_passes.npu.cache import reshape_and_cache
from ascend_passes.passes.grouped_attention import grouped_attention
from ascend_passes.passes.writes.reinplace import reinplace

STEPS = 8


class LargeResults(TorchDispatchMode):
    """Counts operator results in new memory of at least `limit` bytes, and stores of that size."""

    supports_higher_order_operators = True

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.names = limit, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {
            t.untyped_storage()._cdata
            for t in torch.utils._pytree.tree_leaves(args)
            if isinstance(t, Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.nbytes >= self.limit:
                fresh = tensor.untyped_storage()._cdata not in before
                if fresh or function is torch.ops.aten.copy_.default:
                    self.names.append(str(function))
        return result


def rewritten(
    function: Callable, prepare: Callable = lambda gm: None, limit: int = 2**62
) -> SimpleNamespace:
    """`function` compiled with the pass alone, and what it says about its last graph."""
    torch._dynamo.reset()
    made = SimpleNamespace(graph=None, report=None, large=[])

    def compiler(gm: fx.GraphModule, _: object) -> Callable:
        prepare(gm)
        made.report, made.graph = reinplace(gm.graph, Context()), gm.graph
        gm.graph.lint()
        gm.recompile()

        def run(*inputs: Tensor) -> object:
            with LargeResults(limit) as counter:
                result = gm(*inputs)
            made.large += counter.names
            return result

        return run

    made.call = torch.no_grad()(
        torch.compile(
            function,
            backend=lambda gm, inputs: compile_inference(gm, inputs, compiler),
            dynamic=False,
        )
    )
    return made


def check(
    function: Callable, *inputs: Tensor, prepare: Callable = lambda gm: None, limit: int = 2**62
) -> SimpleNamespace:
    """The rewritten graph computes and stores what eager does; no result is as large as `limit`."""
    made = rewritten(function, prepare, limit)
    expected, actual = copy.deepcopy(inputs), copy.deepcopy(inputs)
    wanted, got = function(*expected), made.call(*actual)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert made.large == []
    return made


def targets(made: SimpleNamespace) -> list[object]:
    return [node.target for node in made.graph.nodes]


def cache_and_rows() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 16, 8), torch.randn(2, 4, 1, 8), torch.tensor([5])


def test_index_copy_writes_the_cache():
    def step(cache, rows, position):
        cache.index_copy_(2, position, rows)
        return (cache * 1.5).sum((2, 3))

    made = check(step, *cache_and_rows())
    assert torch.ops.aten.index_copy_.default in targets(made)
    assert torch.ops.aten.copy_.default not in targets(made)
    assert made.report.fired == {"reinplace": 1}


def write_index_put(cache, rows, position):
    cache[:, :, position] = rows


def write_slice(cache, rows, position):
    cache[:, :, 3:4] = rows


def write_flat_view(cache, rows, position):
    cache.view(2, 4, 128)[:, :, 8:16] = rows.squeeze(2)


def write_through_select(cache, rows, position):
    cache[1].index_copy_(1, position, rows[0])


def write_view_of_select(cache, rows, position):
    cache[1].view(64, 8)[position] = rows[0, :1, 0]


def write_transposed(cache, rows, position):
    cache.transpose(1, 2).index_copy_(1, position, rows.transpose(1, 2))


@pytest.mark.parametrize(
    "write",
    [
        write_index_put,
        write_slice,
        write_flat_view,
        write_through_select,
        write_view_of_select,
    ],
)
def test_a_written_cache_is_never_allocated(write):
    def step(cache, rows, position):
        write(cache, rows, position)
        write(cache, rows * 2, position + 1)
        return cache.amax((2, 3))

    cache = cache_and_rows()[0]
    report = check(step, *cache_and_rows(), limit=cache.nbytes // 2).report
    assert report.fired["reinplace"] >= 2
    assert report.misses == ()


def test_a_result_with_another_layout_than_the_cache_is_refused():
    def step(cache, rows, position):
        write_transposed(cache, rows, position)
        return cache.amax((2, 3))

    report = check(step, *cache_and_rows()).report
    assert "expect a dense tensor" in report.misses[0].reason


def test_a_cache_that_is_a_part_of_another_tensor():
    def step(cache, rows, position):
        cache[1].index_copy_(1, position, rows[0])
        cache[0].index_copy_(1, position, rows[1])
        return cache.amax((2, 3))

    made = rewritten(step)
    whole = torch.randn(3, 2, 4, 16, 8)
    expected = whole.clone()
    _, rows, position = cache_and_rows()
    assert torch.equal(made.call(whole[1], rows, position), step(expected[1], rows, position))
    assert torch.equal(whole, expected)
    assert made.report.fired == {"reinplace": 2}


def test_an_old_value_that_is_used_later_is_kept():
    def step(cache, rows, position):
        old = cache[0] * 1
        view = cache[1]
        before = view.clone()
        cache.index_copy_(2, position, rows)
        return old + before + cache[0]

    def read_late(gm: fx.GraphModule) -> None:
        """As if the copy had been dropped: a use of the old value after the write."""
        (held,) = (n for n in gm.graph.nodes if n.target is torch.ops.aten.clone.default)
        held.replace_all_uses_with(held.args[0])
        gm.graph.erase_node(held)

    report = check(step, *cache_and_rows(), prepare=read_late).report
    (miss,) = report.misses
    assert "its old value is used later by aten::add" in miss.reason


def test_a_returned_value_is_not_the_cache():
    def step(cache, rows, position):
        new = cache.index_copy(2, position, rows)
        cache.copy_(new)
        return new

    def store_the_result(gm: fx.GraphModule) -> None:
        """Without the copy that AOTAutograd puts between the result and the cache."""
        (held,) = (n for n in gm.graph.nodes if n.target is torch.ops.aten.copy.default)
        held.replace_all_uses_with(held.args[1])
        gm.graph.erase_node(held)

    made = rewritten(step, store_the_result)
    cache, rows, position = cache_and_rows()
    result = made.call(cache, rows, position)
    assert result.data_ptr() != cache.data_ptr()
    assert torch.equal(result, cache)
    assert "returns the new value" in made.report.misses[0].reason


def test_a_source_that_is_a_view_of_the_cache_is_refused():
    def step(cache, rows, position):
        cache.index_copy_(2, position, cache[:, :, 0:1])
        return cache.amax((2, 3))

    report = check(step, *cache_and_rows()).report
    assert "another argument is a view" in report.misses[0].reason


def test_an_input_that_is_only_read_is_not_written():
    def step(cache, rows, position):
        return cache.index_copy(2, position, rows) * 2

    assert check(step, *cache_and_rows()).report.fired == {"reinplace": 0}


torch.library.define(
    "reinplace_test::write_pair",
    "(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor slots) -> ()",
)


@torch.library.impl("reinplace_test::write_pair", "CPU")
def write_pair(key, value, key_cache, value_cache, slots):
    key_cache[slots] = key
    value_cache[slots] = value


torch.library.register_fake("reinplace_test::write_pair", lambda *arguments: None)


def pair_inputs() -> tuple[Tensor, ...]:
    return torch.randn(3, 8), torch.randn(3, 8), torch.randn(2, 16, 8), torch.tensor([4, 1, 9])


def test_a_mutating_operator_is_called_directly_on_both_halves_of_a_cache():
    def step(key, value, cache, slots):
        torch.ops.reinplace_test.write_pair(key, value, cache[0], cache[1], slots)
        return cache.sum(1)

    report = check(step, *pair_inputs(), limit=pair_inputs()[2].nbytes // 2).report
    assert report.fired == {"reinplace": 1}


if not hasattr(torch.ops._C_cache_ops, "reshape_and_cache_flash"):
    torch.library.define(
        "_C_cache_ops::reshape_and_cache_flash",  # as in vLLM 0.32's csrc/torch_bindings.cpp
        "(Tensor key, Tensor value, Tensor! key_cache, Tensor! value_cache, Tensor slot_mapping,"
        " str kv_cache_dtype, Tensor k_scale, Tensor v_scale) -> ()",
    )
    torch.library.impl("_C_cache_ops::reshape_and_cache_flash", "CPU")(
        lambda key, value, keys, values, slots, *_: reshape_and_cache(
            key, value, keys, values, slots
        )
    )
    torch.library.register_fake("_C_cache_ops::reshape_and_cache_flash", lambda *arguments: None)


def flash(key, value, keys, values, slots):
    write = torch.ops._C_cache_ops.reshape_and_cache_flash
    write(key, value, keys, values, slots, "auto", key.new_ones(1), key.new_ones(1))


def scatter(key, value, keys, values, slots):
    torch.ops.npu.npu_scatter_pa_kv_cache(key, value, keys, values, slots, cache_mode="Norm")


def scatter_blocked(key, value, keys, values, slots):
    torch.ops.npu.npu_scatter_pa_kv_cache(key, value, keys, values, slots)


CACHE_OPERATORS = {
    # Writer -> one cache: 16 blocks of 8 tokens, 2 heads of 16, plain or in columns of 32 bytes.
    flash: (16, 8, 2, 16),
    scatter: (16, 8, 2, 16),
    scatter_blocked: (16, 2, 8, 16),
    torch.ops.atb._npu_reshape_and_cache: (16, 8, 2, 16),
}


@pytest.mark.parametrize(
    "write", CACHE_OPERATORS, ids=lambda write: getattr(write, "__name__", str(write))
)
@pytest.mark.parametrize("halves", [False, True])
def test_paged_cache_operators_write_in_place(write, halves):
    """Two layers, with separate caches or with the halves of one as vLLM allocates them."""

    def step(key, value, slots, *caches):
        for layer in (0, 1):
            keys, values = caches[layer] if halves else caches[2 * layer : 2 * layer + 2]
            write(key, value * (layer + 1), keys, values, slots)
        return [cache.amax() for cache in caches]

    shape = CACHE_OPERATORS[write]
    sizes = [(2, *shape)] * 2 if halves else [shape] * 4
    caches = [torch.randn(size).bfloat16() for size in sizes]
    rows = [torch.randn(3, 2, 16).bfloat16() for _ in range(2)]
    slots = torch.tensor([17, 3, 120], dtype=torch.int32)
    limit = torch.Size(shape).numel()  # half the bytes of a cache
    made = check(step, *rows, slots, *caches, limit=limit)
    assert made.report.fired == {"reinplace": len(caches)} and made.report.misses == ()
    assert torch.ops.aten.copy_.default not in targets(made)


def test_an_input_whose_new_value_is_only_returned_is_not_written():
    def step(key, value, cache, slots):
        torch.ops.reinplace_test.write_pair(key, value, cache[0], cache[1], slots)
        return cache.sum(1)

    def without_store(gm: fx.GraphModule) -> None:
        for store in gm.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
            gm.graph.erase_node(store)

    made = rewritten(step, without_store)
    key, value, cache, slots = pair_inputs()
    expected = cache.clone()
    assert torch.equal(made.call(key, value, cache, slots), step(key, value, expected, slots))
    assert not torch.equal(cache, expected)
    assert "leaves its input as it was" in made.report.misses[0].reason


def test_a_mutating_operator_on_fresh_memory_needs_no_copy():
    def step(key, value, cache, slots):
        keys, values = torch.zeros(16, 8), torch.zeros(16, 8)
        torch.ops.reinplace_test.write_pair(key, value, keys, values, slots)
        return keys + values

    made = check(step, *pair_inputs())
    assert made.report.fired == {"reinplace": 2}
    assert not any("auto_functionalized" in str(target) for target in targets(made))


def test_a_mutated_argument_whose_old_value_is_needed_is_cloned():
    def step(key, value, cache, slots):
        keys, values = key * 2, value * 2
        held = keys + 0.5
        fresh = torch.zeros(16, 8)
        torch.ops.reinplace_test.write_pair(keys[:3], values, cache[0], fresh, slots)
        return held, fresh, cache[1] + 1

    check(step, *pair_inputs())


DOUBLES = torch.library.Library("written_and_read", "FRAGMENT")
for name in ("declared", "plain"):
    DOUBLES.define(f"{name}(Tensor(a!) x, Tensor logits) -> Tensor")
    DOUBLES.impl(name, lambda x, logits: x.mul_(2).add_(logits.sum()).sum(1), "CPU")
    torch.library.register_fake(
        f"written_and_read::{name}", lambda x, logits: torch.empty_like(x[:, 0]), lib=DOUBLES
    )
traits.declare("written_and_read::declared", Traits(given_twice=("logits",)))


@pytest.mark.parametrize("name", ["declared", "plain"])
def test_a_tensor_may_be_given_twice_where_the_operator_is_made_for_that(name):
    """What writes it and reads it as well is called as the model calls it, or not at all."""
    operator = getattr(torch.ops.written_and_read, name)

    def step(x):
        rows = x + 1
        return operator(rows, rows)

    def step_of_two(x):
        rows = x + 1
        return operator(rows, rows[:2])

    made, x = rewritten(step), torch.ones(4, 8)
    same = torch.equal(made.call(x), step(x))
    assert same == made.report.fired["reinplace"] == (name == "declared")
    part = rewritten(step_of_two)
    part.call(x)
    assert part.report.fired == {"reinplace": 0}
    assert "another argument is a view" in part.report.misses[0].reason


WRITES = (write_index_put, write_slice, write_through_select, write_flat_view, write_transposed)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "read", "hold", "scale"]), st.integers(0, 4)),
        min_size=1,
        max_size=7,
    )
)
def test_random_programs_of_writes_and_reads(program):
    written = [WRITES[number] for kind, number in program if kind == "write"]
    before_flat = written[
        : max((i for i, w in enumerate(written) if w is write_flat_view), default=0)
    ]
    assume(write_transposed not in before_flat)  # AOTAutograd alone cannot view that cache flat

    def step(cache, rows, position):
        results, held = [], []
        for kind, number in program:
            if kind == "write":
                WRITES[number](cache, rows * (number + 1), position + number)
            elif kind == "read":
                results.append(cache[number % 2].amax(0) + sum(h.amax(0) for h in held))
            elif kind == "hold":
                held.append(cache[number % 2].clone())
            else:
                cache.mul_(1.5)
        return (*results, cache.amax((2, 3)))

    for prepare in (lambda gm: None, lambda gm: normalize(gm.graph)):
        check(step, *cache_and_rows(), prepare=prepare)


def prepare(gm: fx.GraphModule) -> None:
    """Otherwise attention copies the cache for each query head."""
    normalize(gm.graph)
    grouped_attention(gm.graph, Context())


def test_qwen3_decodes_without_allocating_a_cache():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    model = Qwen3ForCausalLM(config).eval()
    cache = StaticCache(config=config, max_cache_len=512)
    reference = StaticCache(config=config, max_cache_len=512)
    prompt = torch.randint(0, 97, (1, 5))
    with torch.no_grad():
        for each in (cache, reference):
            model(prompt, past_key_values=each)
        size = cache.layers[0].keys.nbytes
        made = rewritten(model, prepare, limit=size)
        token = torch.tensor([[3]])
        for _ in range(STEPS):
            got = made.call(token, past_key_values=cache).logits
            wanted = model(token, past_key_values=reference).logits
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
            token = wanted.argmax(-1)
    assert made.large == []
    assert made.report.misses == ()
    assert made.report.fired == {"reinplace": 6}  # keys, values and the length of two layers
