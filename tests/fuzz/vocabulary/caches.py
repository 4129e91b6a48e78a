"""KV caches: inputs and buffers that the model writes in place and reads."""

from __future__ import annotations

from tests.fuzz.draw import Draw, Nothing
from tests.fuzz.vocabulary.rope import heads_of

LENGTH = 8
WRITES = (
    "{0}.index_copy_(2, {2}, {1})\n{r0} = {0}",
    "{0}[:, :, {2}] = {1}\n{r0} = {0}",
    "{0}[:, :, : {1}.shape[2]] = {1}\n{r0} = {0}",
    "{0}[:, :, {0}.shape[2] - {1}.shape[2] :] = {1}\n{r0} = {0}",
    "{0}[:, :, : {1}.shape[2]].copy_({1})\n{r0} = {0}",
    "{0}.index_put_((torch.arange({0}.shape[0])[:, None, None], "
    "torch.arange({0}.shape[1])[None, :, None], {2}), {1})\n{r0} = {0}",
    "{r0} = torch.index_copy({0}, 2, {2}, {1})",
    "{r0} = {0}.index_copy(2, {2}, {1})\n{0}.copy_({r0})",
    "{0}.narrow(2, 0, {1}.shape[2]).add_({1})\n{r0} = {0}",
    "{r0} = torch.cat([{0}, {1}], 2)",
    "{0}.transpose(1, 2)[:, {2}] = {1}.transpose(1, 2)\n{r0} = {0}",
)
SLOT_WRITES = (
    "{0}[{2}] = {1}.flatten(0, 1)\n{r0} = {0}",
    "{0}.index_put_(({2},), {1}.flatten(0, 1))\n{r0} = {0}",
    "{0}.index_copy_(0, {2}, {1}.reshape({0}[{2}].shape))\n{r0} = {0}",
    "{0}.view(-1, {0}.shape[-1])[{2}] = {1}.flatten(0, 1)[:, 0]\n{r0} = {0}",
    "{0}.scatter_(0, {2}[:, None, None].expand({0}[{2}].shape), {1}.flatten(0, 1))\n{r0} = {0}",
)


def rows_of_calls(draw: Draw) -> str:
    """Rows [B, S, H] of the call's own sizes."""
    wanted = draw.sizes[0]["B"], draw.sizes[0]["S"]
    dtype = draw.worlds[0]["DT"]
    return draw.pick(lambda t: t.dtype == dtype and t.dim() == 3 and tuple(t.shape[:2]) == wanted)


def cache_of(draw: Draw, count: int, size: int) -> str:
    """A cache [B, heads, LENGTH, size]: an input that lives through the calls, or a fresh one."""
    shape = ("B", count, LENGTH, size)
    alike = [one for one in draw.given if one.shape == shape and one.role == "kept"]
    manner = draw.random.random()
    if alike and manner < 0.2:
        return draw.one_of(*alike).place
    if alike and manner < 0.35:
        return draw.give("kept", shape, "normal", same=draw.one_of(*alike).name)
    layout = draw.one_of("dense", "dense", "dense", "sliced", "transposed")
    role = draw.one_of("kept", "kept", "input")
    return draw.give(role, shape, draw.one_of("zeros", "normal"), layout=layout)


def cache(draw: Draw) -> str:
    """Keys or values written into a cache."""
    count, size = draw.one_of(1, 2, 4), draw.one_of(4, 8, 64)
    heads = heads_of(draw, rows_of_calls(draw), count, size, True)
    where = draw.give("input", ("S",), "places", "int64")
    return draw.emit("cache", draw.one_of(*WRITES), cache_of(draw, count, size), heads, where)[0]


def paged(draw: Draw) -> str:
    """Keys written into slots of a flat cache, a buffer or an input."""
    count, size = draw.one_of(1, 2), draw.one_of(4, 8)
    heads = heads_of(draw, rows_of_calls(draw), count, size, False)
    slots = draw.give("input", ("T",), "places", "int64")
    shape = (4 * LENGTH, count, size)
    role = draw.one_of("kept", "buffer")
    flat = draw.give(role, shape, draw.one_of("zeros", "normal"))
    return draw.emit("paged_cache", draw.one_of(*SLOT_WRITES), flat, heads, slots)[0]


def cached_attention(draw: Draw) -> str:
    """A step of decoding: keys and values into caches, attention over them."""
    rows = rows_of_calls(draw)
    count, size, groups = draw.one_of(1, 2), draw.one_of(4, 8, 64), draw.one_of(1, 1, 2, 4)
    keys, values = (heads_of(draw, rows, count, size, True) for _ in range(2))
    query = heads_of(draw, rows, count * groups, size, True)
    where = draw.give("input", ("S",), "places", "int64")
    write = draw.one_of(*WRITES[:6])
    stored = [
        draw.emit("cache", write, cache_of(draw, count, size), heads, where)[0]
        for heads in (keys, values)
    ]
    lines = []
    if groups > 1:
        repeat = draw.one_of(
            f"[:, :, None].expand(-1, -1, {groups}, -1, -1).reshape("
            f"{{1}}.shape[0], {count * groups}, {{1}}.shape[2], {size})",
            f".repeat_interleave({groups}, 1)",
        )
        lines = [f"{{r0}}_{n} = {{{i}}}{repeat}" for n, i in (("k", 1), ("v", 2))]
    else:
        lines = ["{r0}_k = {1}", "{r0}_v = {2}"]
    mask = draw.give(
        "input", draw.one_of(("B", 1, "S", LENGTH), (1, 1, "S", LENGTH)), "mask", "bool"
    )
    last = draw.one_of(
        "{r0} = F.scaled_dot_product_attention({0}, {r0}_k, {r0}_v, attn_mask={3})",
        "{r0}_p = {0} @ {r0}_k.transpose(-1, -2) * 0.25\n"
        "{r0}_p = {r0}_p.masked_fill(~{3}, -10000.0)\n"
        "{r0} = torch.softmax({r0}_p, -1, dtype=WIDE).to(DT) @ {r0}_v",
    )
    text = "\n".join([*lines, last])
    found = draw.emit("cached_attention", text, query, *stored, mask)[0]
    flat = "{r0} = {0}.transpose(1, 2).reshape({0}.shape[0], {0}.shape[2], "
    return draw.emit("heads_joined", f"{flat}{count * groups * size})", found)[0]


def hidden_count(draw: Draw) -> str:
    """A write into a buffer of the module that nobody returns."""
    rows = draw.rows()
    width = draw.fixed(rows)
    if width < 1:
        raise Nothing
    kept = draw.give("buffer", (width,), "zeros")
    text = draw.one_of(
        "{0}.copy_({1}.reshape(-1, {1}.shape[-1])[0])", "{0}.mul_(0.5)", "{0}.zero_()"
    )
    return draw.emit("buffer_write", text + "\n{r0} = {0} * 2", kept, rows)[0]


OPERATORS = {cache: 2.0, paged: 1.0, cached_attention: 2.0, hidden_count: 0.7}
