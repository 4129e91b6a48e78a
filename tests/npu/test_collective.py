"""The matmuls with a collective, on real gloo groups of two and four processes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ascend_passes import npu
from ascend_passes.npu import bound
from tests.npu import fakes
from tests.npu.draw import generator, integers
from tests.numerics import ulp_distance

ROWS, DEPTH, WIDTH = 8, 256, 24
BFLOAT16 = 15


def run(world: int, tmp_path, check) -> None:
    seed = torch.seed() % 2**31
    mp.spawn(worker, (world, str(tmp_path / "store"), check, seed), world)


def worker(rank: int, world: int, store: str, check, seed: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        check(rank, world, dist.group.WORLD.group_name, generator(seed))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        dist.destroy_process_group()


def operands(source, world, integer):
    """Left and right operands of all ranks, and the float64 product of each rank."""
    if integer:
        left = integers(source, world, ROWS, DEPTH)
        right = integers(source, world, DEPTH, WIDTH)
        return left, right, (left.long() @ right.long()).double()
    left, right = (
        torch.randn(world, *shape, generator=source).bfloat16()
        for shape in ((ROWS, DEPTH), (DEPTH, WIDTH))
    )
    return left, right, left.double() @ right.double()


def assert_sum(actual, partials):
    """bfloat16 rounds each partial and each addition, by 2**-8 of at most the sum of magnitudes."""
    roundings = partials.shape[0]
    allowed = 2.0**-8 * roundings * partials.abs().sum(0)
    assert actual.dtype == torch.bfloat16
    assert bool(((actual.double() - partials.sum(0)).abs() <= allowed).all())


def check_reductions(rank, world, group, source):
    left, right, partials = operands(source, world, integer=False)
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    scattered = fakes.call("npu_mm_reduce_scatter_base", left[rank], right[rank], group, world)
    assert_sum(scattered, partials[:, mine])
    bias = torch.randn(WIDTH, generator=source).bfloat16()
    x3 = torch.randn(ROWS, WIDTH, generator=source).bfloat16()
    whole = fakes.call("npu_mm_all_reduce_base", left[rank], right[rank], group, bias=bias, x3=x3)
    with_bias = torch.cat([partials + bias.double(), x3.double()[None]])
    assert_sum(whole, with_bias)
    deep = fakes.call("npu_mm_all_reduce_base", left[rank][None], right[rank], group)
    assert_sum(deep[0], partials)


def check_quantized_reductions(rank, world, group, source):
    left, right, partials = operands(source, world, integer=True)
    rows, columns = (torch.rand(world, n, generator=source) * 0.01 for n in (ROWS, WIDTH))
    exact = partials * rows.double()[..., None] * columns.double()[:, None]
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    scales = {"x1_scale": rows[rank][:, None], "x2_scale": columns[rank][None]}
    out, amax = fakes.call(
        "npu_quant_mm_reduce_scatter",
        left[rank],
        right[rank],
        group,
        world,
        **scales,
        y_dtype=BFLOAT16,
        comm_mode="aiv",
    )
    assert_sum(out, exact[:, mine])
    assert amax.shape == (0,)
    out = fakes.call(
        "npu_mm_reduce_scatter_base",
        left[rank],
        right[rank],
        group,
        world,
        **scales,
        comm_mode="aiv",
    )
    assert_sum(out, exact[:, mine])
    bias = torch.randint(-999, 999, (world, WIDTH), generator=source).to(torch.int32)
    whole = fakes.call(
        "npu_mm_all_reduce_base",
        left[rank],
        right[rank],
        group,
        bias=bias[rank],
        dequant_scale=columns[rank].bfloat16(),
        pertoken_scale=rows[rank],
    )
    scaled = (partials + bias.double()[:, None]) * columns.bfloat16().double()[:, None]
    assert_sum(whole, scaled * rows.double()[..., None])


def check_gathers(rank, world, group, source):
    left, right, _ = operands(source, world, integer=False)
    out, rows = fakes.call("npu_all_gather_base_mm", left[rank], right[0], group, world)
    everything = left.flatten(0, 1)
    assert torch.equal(rows, everything)
    exact = everything.double() @ right[0].double()
    summed = everything.double().abs() @ right[0].double().abs()
    assert bool(((out.double() - exact).abs() <= exact.abs() * 2**-8 + summed * 2**-16).all())
    left, right, _ = operands(source, world, integer=True)
    scale, columns = (torch.rand(n, generator=source) * 0.01 for n in (world * ROWS, WIDTH))
    mine = scale[rank * ROWS : (rank + 1) * ROWS, None]
    out, rows, amax = fakes.call(
        "npu_all_gather_quant_mm",
        left[rank],
        right[0],
        group,
        world,
        x1_scale=mine,
        x2_scale=columns[None],
        gather_output=False,
        y_dtype=BFLOAT16,
        comm_mode="aiv",
    )
    exact = (left.flatten(0, 1).long() @ right[0].long()).double()
    exact = exact * scale.double()[:, None] * columns.double()
    assert ulp_distance(out, exact) <= bound("npu_all_gather_quant_mm", "y", torch.bfloat16)
    assert rows.shape == amax.shape == (0,)


def check_kernels(rank, world, group, source):
    """What runs on a GPU is the reference with another product; here both take the same one."""
    from ascend_passes.npu.cuda.collective import KERNELS
    from ascend_passes.npu.cuda.launch import launch_now

    left, right, _ = operands(source, world, integer=True)
    scale, columns = (torch.rand(n, generator=source) * 0.01 for n in (world * ROWS, WIDTH))
    more = {"x1_scale": scale[:ROWS], "x2_scale": columns, "y_dtype": BFLOAT16}
    for name, run_kernel in KERNELS.items():
        given = (left[rank][:ROWS], right[rank], group, world)
        found = run_kernel(launch_now, *given, **more)
        pairs = zip(found, fakes.call(name, *given, **more), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), name


def check_world_size_limit(rank, world, group, source):
    left, right, _ = operands(source, world, integer=False)
    arguments = {"x1": left[rank], "x2": right[rank], "hcom": group}
    found = npu.legality("npu_mm_all_reduce_base", arguments, "Ascend910B")
    reason = f"world size {world} is not one of (1, 2, 4, 8) on Ascend910B"
    assert [why for holds, why in found if not holds] == ([reason] if world == 3 else [])


def check_all(rank, world, group, source):
    for check in (check_reductions, check_quantized_reductions, check_gathers, check_kernels):
        check(rank, world, group, source)
    check_world_size_limit(rank, world, group, source)


@pytest.mark.parametrize(
    ("world", "check"), [(2, check_all), (4, check_all), (3, check_world_size_limit)]
)
def test_real_groups(world, check, tmp_path):
    run(world, tmp_path, check)
