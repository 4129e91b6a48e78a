"""vllm-ascend's own engine with our passes in it, on the pair's torch_npu and the CANN stand-in.

Its platform settles the configuration, its worker and model runner build and run the model of its
own layers, npugraph_ex compiles and its ACLGraphWrapper captures and replays. Kernels are CPU
references, HCCL is gloo, Triton kernels are functions.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pairs import modelslim, standin
from tests.slow import slow
from tests.vllm import checkpoints
from tests.vllm.cache_root import make_cache_root
from tests.vllm.reference import error_under
from tests.vllm.session import MARK

LAYERS = 3
NORMS = 2 * LAYERS - 1
"""All norms of the layers but the first, which has no residual; each has a quantize behind it."""
DECODE = {"cudagraph_mode": "FULL_DECODE_ONLY", "splitting_ops": []}
PROMPTS = [[[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], list(range(20, 60))]]
LONG = [[[3 + number % 500 for number in range(1101)]]]
"""More tokens than FlashComm acts above, and not as many on two ranks."""
FORMS = {
    "dynamic": "npu::npu_add_rms_norm_dynamic_quant",
    "static": "npu::npu_add_rms_norm_quant",
}
FLOAT = "float"
"""A checkpoint in bfloat16."""
MATMUL_NORM = "_C_ascend::matmul_allreduce_add_rmsnorm"
OURS = {"prefetch_mlp": True, "expect": {"add_rms_norm_quant": NORMS}}
ROUNDING = 2
"""Our root mean square error may be this multiple of what the same stack has without us, and the
least of it: both round at the same places, ours at fewer."""
SECONDS = 400
RUNNING = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def case(name: str, model: Path, ours: Any, tokens: int = 6, **engine: Any) -> dict[str, Any]:
    """A case of `tests/vllm/session.py`; `ours` is our section, None for the stack without us."""
    more = engine.pop("additional_config", {})
    section = more if ours is None else {**more, "ascend_passes": ours}
    return {
        "name": name,
        "model": str(model),
        "batches": engine.pop("batches", PROMPTS),
        "logprobs": 5,
        "tokens": tokens,
        "engine": {
            "dtype": "bfloat16",
            "quantization": "ascend",
            "kv_cache_memory_bytes": 1 << 24,
            "compilation_config": DECODE,
            "additional_config": section,
            **engine,
        },
    }


def with_log(results: dict[str, Any], output: str) -> dict[str, Any]:
    """The results, each with the lines that it logged of us."""
    for part in output.split(MARK)[1:]:
        name, _, lines = part.partition("\n")
        results[name]["log"] = [line for line in lines.splitlines() if "ascend_dense:" in line]
    return results


def free_port() -> str:
    """A port for the group of one engine: the store of the one before may still be there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run(folder: Path, cases: list[dict[str, Any]], ranks: int = 1) -> list[dict[str, Any]]:
    """What each rank found: a process for each."""
    cases = [{**one, "port": free_port()} for one in cases]
    processes = []
    for rank in range(ranks):
        variables = standin.environment(
            **RUNNING,
            RANK=str(rank),
            WORLD_SIZE=str(ranks),
            VLLM_CACHE_ROOT=make_cache_root(folder / f"cache-{rank}", Path(sys.prefix)),
        )
        log = (folder / f"{rank}.log").open("w")
        command = [sys.executable, "-m", "tests.pairs.inside.session", str(folder / f"{rank}.json")]
        options = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env=variables, text=True, **options)
        assert process.stdin is not None
        process.stdin.write(json.dumps(cases))
        process.stdin.close()
        processes.append(process)
    try:
        statuses = [process.wait(SECONDS * ranks) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = [(folder / f"{rank}.log").read_text() for rank in range(ranks)]
    assert not any(statuses), "\n".join(log[-4000:] for log in logs)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return [with_log(one, log) for one, log in zip(found, logs, strict=True)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def made(form: str) -> Path:
        target = folder / form
        sizes = {"num_hidden_layers": LAYERS, "head_dim": 128, "max_position_embeddings": 2048}
        if target.exists():
            return target
        if form == FLOAT:
            return checkpoints.make(target, "qwen3", "bf16", **sizes)
        return modelslim.make(target, form, **sizes)

    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(checkpoint: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """Engines on one rank."""
    cases = [
        case(f"{form} {name}", checkpoint(form), section)
        for form in FORMS
        for name, section in (("ours", OURS), ("plain", None))
    ]
    return run(folder, cases)[0]


@pytest.mark.parametrize("form", FORMS)
def test_every_norm_and_quantize_is_one_kernel(alone: dict[str, Any], form: str) -> None:
    (report,) = alone[f"{form} ours"]["reports"]
    assert report["after"][FORMS[form]] == NORMS, report
    assert not report["errors"]


@pytest.mark.parametrize("form", FORMS)
def test_each_mlp_has_its_two_weights_prefetched(alone: dict[str, Any], form: str) -> None:
    (report,) = alone[f"{form} ours"]["reports"]
    assert loads(report["graph"]) == expected_loads(report["graph"])


def loads(graph: str) -> list[tuple[str, str]]:
    """(weight, behind which product) of each prefetch in a graph's text."""
    return re.findall(r"npu_prefetch\.default\((\w+), (\w+),", graph)


def expected_loads(graph: str) -> list[tuple[str, str]]:
    """The weights of the third and the fourth product of each layer, behind the one before."""
    products = re.findall(r"(\w+) = \S*npu_quant_matmul\.default\(\w+, (\w+)", graph)
    assert len(products) == 4 * LAYERS
    pairs = list(itertools.pairwise(products))
    return [
        (weight, name)
        for layer in range(LAYERS)
        for (name, _), (_, weight) in pairs[4 * layer + 1 : 4 * layer + 3]
    ]


def test_static_numbers_are_those_without_us(alone: dict[str, Any]) -> None:
    """Its own pass fuses norm and quantize there, so that nothing is rounded elsewhere."""
    one, other = alone["static ours"], alone["static plain"]
    assert (one["tokens"], one["logprobs"]) == (other["tokens"], other["logprobs"])


def test_dynamic_numbers_are_as_near_to_float64(
    alone: dict[str, Any], checkpoint: Callable[[str], Path]
) -> None:
    model = modelslim.exact(checkpoint("dynamic"))
    ours, plain = (
        error_under(model, PROMPTS, alone[f"dynamic {name}"]) for name in ("ours", "plain")
    )
    assert ours <= ROUNDING * plain, (ours, plain)


@pytest.mark.parametrize("form", FORMS)
def test_decode_steps_are_replayed(alone: dict[str, Any], form: str) -> None:
    one = alone[f"{form} ours"]
    assert one["cudagraph_mode"] == "FULL_DECODE_ONLY" and one["async"]
    assert one["replays"] >= 5 and one["updates"] >= 5 * LAYERS, one


@pytest.fixture(scope="module")
def again(alone: dict[str, Any], checkpoint: Callable[[str], Path], folder: Path) -> dict[str, Any]:
    """A start that finds what the first one of `alone` stored: code is known by the files that were
    traced, which are others later in a process. Then one in pieces."""
    pieces = {"compilation_config": {"cudagraph_mode": "PIECEWISE"}}
    cases = [
        case("dynamic ours", checkpoint("dynamic"), OURS),
        case("static pieces", checkpoint("static"), OURS, **pieces),
    ]
    return run(folder, cases)[0]


def test_a_second_start_says_what_fired_in_the_first(
    again: dict[str, Any], alone: dict[str, Any]
) -> None:
    one, first = again["dynamic ours"], alone["dynamic ours"]
    assert (one["loaded"], one["tokens"]) == (1, first["tokens"])
    (report,) = one["reports"]
    assert report["fired"] == first["reports"][0]["fired"]
    assert "stored by an earlier start: " in one["log"][-1]


def test_a_start_is_held_to_what_the_stored_code_has(
    again: dict[str, Any], checkpoint: Callable[[str], Path], folder: Path
) -> None:
    assert "tokens" in again["dynamic ours"]
    name = FORMS["dynamic"].removeprefix("npu::npu_")
    for path in folder.rglob("ascend_dense_reports.json"):
        path.write_text(path.read_text().replace(f'"{name}": {NORMS}', f'"{name}": {NORMS - 1}'))
    (found,) = run(folder, [case("dynamic ours", checkpoint("dynamic"), OURS)])
    sentence = f"add_rms_norm_quant fired {NORMS - 1} times, expected {NORMS}"
    assert sentence in found["dynamic ours"]["error"], found


def test_in_pieces_norms_fuse_as_well(
    alone: dict[str, Any], again: dict[str, Any], checkpoint: Callable[[str], Path]
) -> None:
    """vllm-ascend's pass manager compiles them; it gives its patterns to the first of a process
    alone, so that here ours fuse."""
    one, model = again["static pieces"], modelslim.exact(checkpoint("static"))
    assert len(one["reports"]) == LAYERS + 1
    assert sum(report["after"].get(FORMS["static"], 0) for report in one["reports"]) == NORMS
    ours, plain = (error_under(model, PROMPTS, each) for each in (one, alone["static plain"]))
    assert ours <= ROUNDING * plain, (ours, plain)


def parallel_cases(checkpoint: Callable[[str], Path], ranks: int) -> list[dict[str, Any]]:
    """Engines on several ranks, with a step of more tokens than FlashComm acts above."""
    long = {
        "batches": LONG,
        "tokens": 3,
        "max_model_len": 1200,
        "max_num_batched_tokens": 2048,
        "tensor_parallel_size": ranks,
        "distributed_executor_backend": "external_launcher",
    }
    own, flashcomm = (
        {"additional_config": {"enable_flashcomm1": True}},
        {
            "flashcomm": True,
            "matmul_reduce_scatter": False,
            "passes": "-sequence_parallel.cost",
        },
    )
    floats = long | {"quantization": None}
    return [
        case("plain", checkpoint("dynamic"), None, **long),
        case("plain float", checkpoint(FLOAT), None, **floats),
        case("all_reduce", checkpoint(FLOAT), {"matmul_all_reduce": True}, **floats),
        case("flashcomm", checkpoint("dynamic"), flashcomm, **long),
        case("its own", checkpoint("dynamic"), {"prefetch_mlp": True}, **long, **own),
        case("its own static", checkpoint("static"), {"prefetch_mlp": True}, **long, **own),
    ]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=slow)])
def ranks(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path_factory: Any
) -> list[dict[str, Any]]:
    """What each of so many ranks found."""
    cases = parallel_cases(checkpoint, request.param)
    return run(tmp_path_factory.mktemp("ranks"), cases, ranks=request.param)


@pytest.mark.parametrize("name", ["plain", "flashcomm", "its own", "its own static", "all_reduce"])
def test_ranks_give_the_same(ranks: list[dict[str, Any]], name: str) -> None:
    one, *others = (rank[name] for rank in ranks)
    for other in others:
        assert (one["tokens"], one["logprobs"]) == (other["tokens"], other["logprobs"])


@pytest.mark.parametrize("name", ["flashcomm", "its own"])
def test_under_flashcomm_numbers_are_as_near_to_float64(
    ranks: list[dict[str, Any]], checkpoint: Callable[[str], Path], name: str
) -> None:
    model = modelslim.exact(checkpoint("dynamic"))
    ours, plain = (error_under(model, LONG, ranks[0][one]) for one in (name, "plain"))
    assert ours <= ROUNDING * plain, (ours, plain)


def test_matmul_sum_and_norm_are_its_own_operator(
    ranks: list[dict[str, Any]], checkpoint: Callable[[str], Path]
) -> None:
    small, large = ranks[0]["all_reduce"]["reports"]
    assert MATMUL_NORM not in small["after"]
    assert large["after"][MATMUL_NORM] == 2 * LAYERS, large["after"]
    assert "vllm::all_reduce" not in large["after"]
    model = modelslim.exact(checkpoint(FLOAT))
    ours, plain = (error_under(model, LONG, ranks[0][one]) for one in ("all_reduce", "plain float"))
    assert ours <= ROUNDING * plain, (ours, plain)


def test_our_flashcomm_shards_its_layers(ranks: list[dict[str, Any]]) -> None:
    small, large = ranks[0]["flashcomm"]["reports"]
    assert not small["fired"].get("sequence_parallel")
    assert large["fired"]["sequence_parallel"] == 2 * LAYERS, large["fired"]
    for report in (small, large):
        assert report["after"][FORMS["dynamic"]] == NORMS


@pytest.mark.parametrize(("name", "form"), [("its own", "dynamic"), ("its own static", "static")])
def test_beside_its_own_flashcomm_norms_fuse_and_nothing_is_prefetched(
    ranks: list[dict[str, Any]], name: str, form: str
) -> None:
    small, large = ranks[0][name]["reports"]
    for report in (small, large):
        assert report["after"][FORMS[form]] == NORMS
        assert not loads(report["graph"])
    reasons = [miss["reason"] for miss in small["misses"] if miss["rule"] == "prefetch"]
    assert reasons == ["vllm::matmul_and_reduce keeps the down weight in its module"] * LAYERS
