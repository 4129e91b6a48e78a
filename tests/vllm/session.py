"""Runs engines one after another in one process: cases as JSON on stdin, results as JSON to a file.

A program of the tests; it runs in the environment that has vLLM, not in the tests' own.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

collect_garbage = gc.collect
"""Python's own: the test platform's plugin gives vLLM one that does nothing."""
MARK = "=== case "
"""In front of a case's name, on a line of its own before what the case prints."""
READ_A_NUMBER = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")
"""What the host can only know once the device is done."""
ENGINE = {
    "max_model_len": 128,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 128,
    "gpu_memory_utilization": 0.1,
    "disable_log_stats": True,
    "seed": 0,
}


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Start an engine, generate greedily, and say what happened."""
    import torch
    from vllm import LLM, SamplingParams
    from vllm.compilation.counter import compilation_counter
    from vllm.distributed import cleanup_dist_env_and_memory

    import ascend_passes

    torch._dynamo.reset()
    ascend_passes.reset()
    loaded, start = compilation_counter.num_aot_artifacts_loaded, time.perf_counter()
    llm = LLM(case["model"], **{**ENGINE, **case.get("engine", {})})
    config = llm.llm_engine.vllm_config
    sampling = SamplingParams(
        temperature=0,
        max_tokens=case.get("tokens", 8),
        ignore_eos=True,
        logprobs=case.get("logprobs"),
    )
    tokens, logprobs = [], []
    called: list[str] = []
    for batch in case["batches"]:
        prompts = [{"prompt_token_ids": prompt} for prompt in batch]
        if case.get("profile"):
            called += operators(functools.partial(llm.generate, prompts, sampling, use_tqdm=False))
        for output in llm.generate(prompts, sampling, use_tqdm=False):
            tokens.append(list(output.outputs[0].token_ids))
            logprobs.append(
                [
                    {str(token): entry.logprob for token, entry in step.items()}
                    for step in output.outputs[0].logprobs or []
                ]
            )
    result = {
        "tokens": tokens,
        "logprobs": logprobs,
        "mode": config.compilation_config.mode.name,
        "backend": config.compilation_config.backend,
        "async": bool(config.scheduler_config.async_scheduling),
        "cudagraph_mode": config.compilation_config.cudagraph_mode.name,
        "compilation_seconds": config.compilation_config.compilation_time,
        "start_seconds": time.perf_counter() - start,
        "loaded": compilation_counter.num_aot_artifacts_loaded - loaded,
        "reports": [
            {
                "fired": dict(r.fired),
                "misses": [dataclasses.asdict(m) for m in r.misses],
                "errors": list(r.errors),
                "seconds": dict(r.seconds),
                "before": dict(Counter(kernel.operator for kernel in r.before)),
                "after": dict(Counter(kernel.operator for kernel in r.after)),
                "graph": r.graph_after,
            }
            for r in ascend_passes.reports()
        ],
        "captured": captured(),
        "reads": sum(name in READ_A_NUMBER for name in called),
        "fused": sum(name.startswith("npu::") for name in called),
    }
    llm.llm_engine.engine_core.shutdown()
    del llm
    collect_garbage()
    cleanup_dist_env_and_memory()
    return result


def operators(call: Callable[[], Any]) -> list[str]:
    """The operators that a call runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    return [event.name for event in recorded.events()]


def captured() -> int:
    """Device graphs that the graph wrappers of this process hold."""
    module = sys.modules.get("ascend_passes.vllm.graph_wrapper")
    if module is None:
        return 0
    gc.unfreeze()  # vLLM freezes what it made at start-up
    wrappers = [item for item in gc.get_objects() if type(item) is module.AscendGraphWrapper]
    return sum(len(wrapper.captured) for wrapper in wrappers)


def main(run: Callable[[dict[str, Any]], dict[str, Any]] = run) -> None:
    cases, target = json.load(sys.stdin), sys.argv[1]
    results: dict[str, Any] = {}
    for case in cases:
        print(f"{MARK}{case['name']}", flush=True)
        try:
            results[case["name"]] = run(case)
        except Exception as error:  # a test may want it
            results[case["name"]] = {"error": f"{type(error).__name__}: {error}"}
    with open(target, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
