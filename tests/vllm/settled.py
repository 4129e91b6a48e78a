"""Settles configurations without starting an engine: cases as JSON on stdin, results on stdout.

A program of the tests; it runs in the environment that has vLLM. For each case, `environment` is
set, `engine` goes to vLLM's own argument class, and what is logged follows its marker.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from tests.vllm.session import ENGINE, MARK


def main() -> None:
    import torch
    from vllm.engine.arg_utils import EngineArgs

    results: dict[str, Any] = {}
    for case in json.load(sys.stdin):
        print(f"{MARK}{case['name']}", flush=True)
        os.environ.update(case.get("environment", {}))
        try:
            config = EngineArgs(**{**ENGINE, **case["engine"]}).create_engine_config()
            compilation = config.compilation_config
            results[case["name"]] = {
                "mode": compilation.mode.name,
                "backend": compilation.backend,
                "splitting_ops": compilation.splitting_ops,
                "own_sum": hasattr(torch.ops._C, "init_shm_manager"),
                "range_ends": compilation.compile_ranges_endpoints,
            }
        except Exception as error:  # a test may want it
            results[case["name"]] = {"error": f"{type(error).__name__}: {error}"}
        for name in case.get("environment", {}):
            del os.environ[name]
    with open(sys.argv[1], "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
