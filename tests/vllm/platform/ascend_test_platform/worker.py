"""The CPU worker with a model runner that captures whole decode steps, as an NPU's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import vllm._custom_ops
import vllm.v1.worker.cpu_worker as cpu_worker
from vllm.config import CompilationMode, CUDAGraphMode
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from ascend_passes.vllm.graph_wrapper import AscendGraphWrapper


class Runner(CPUModelRunner):
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if self.compilation_config.mode == CompilationMode.STOCK_TORCH_COMPILE:
            # As vLLM's runner for devices does; its runner for CPUs leaves this mode out.
            backend = self.compilation_config.init_backend(self.vllm_config)
            self.model.compile(fullgraph=True, backend=backend)
        elif self.compilation_config.cudagraph_mode.has_full_cudagraphs():
            self.model = AscendGraphWrapper(self.model, self.vllm_config, CUDAGraphMode.FULL)

    def get_model(self) -> Any:
        return self.model.unwrap() if isinstance(self.model, AscendGraphWrapper) else self.model


def experts_of(runner: MoERunner) -> Callable[..., Any]:
    """The operator that is all of a layer's experts; a CPU's graph has what is in it."""
    shared = runner._shared_experts is not None
    return torch.ops.vllm.moe_forward_shared if shared else torch.ops.vllm.moe_forward


class Worker(cpu_worker.CPUWorker):
    def init_device(self) -> None:
        cpu_worker.CPUModelRunner = Runner
        # An NPU's matmul reads its weight; oneDNN's, of this runner, hides it behind a handle.
        vllm._custom_ops._supports_onednn = False
        # CPU attention reads its metadata when it runs, so that a replay sees the present step's.
        CPUAttentionMetadataBuilder._cudagraph_support = (
            AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
        )
        MoERunner._select_forward = experts_of
        super().init_device()
