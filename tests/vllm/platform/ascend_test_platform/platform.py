"""Kernels and workers of a CPU; compiler, pass manager, graph wrapper and scheduling of an NPU."""

from __future__ import annotations

from typing import Any

from vllm.platforms.cpu import CpuPlatform

DECIDED_BY_CPU_PLATFORM = ("mode", "backend", "ir_enable_torch_wrap", "cudagraph_capture_sizes")


class AscendTestPlatform(CpuPlatform):
    device_name = "cpu"

    @property
    def pass_key(self) -> str:
        return "graph_fusion_manager"

    @classmethod
    def get_compile_backend(cls) -> str:
        return "ascend_passes.vllm.compiler.AscendDenseCompiler"

    @classmethod
    def get_pass_manager_cls(cls) -> str:
        return "ascend_passes.vllm.passes.AscendDensePassManager"

    @classmethod
    def get_static_graph_wrapper_cls(cls) -> str:
        return "ascend_passes.vllm.graph_wrapper.AscendGraphWrapper"

    @classmethod
    def support_static_graph_mode(cls) -> bool:
        return True

    @classmethod
    def use_custom_op_collectives(cls) -> bool:
        return True

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: Any) -> None:
        """Leave vLLM's own fusions off: their modules exist for other devices only."""
        passes = vllm_config.compilation_config.pass_config
        for name in vars(passes):
            if name.startswith(("fuse_", "enable_")) and getattr(passes, name) is None:
                setattr(passes, name, False)

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """The CPU platform's checks, without its decisions against compilation and scheduling."""
        compilation, scheduler = vllm_config.compilation_config, vllm_config.scheduler_config
        kept = {name: getattr(compilation, name) for name in DECIDED_BY_CPU_PLATFORM}
        inductor, asynchronous = (
            dict(compilation.inductor_compile_config),
            scheduler.async_scheduling,
        )
        super().check_and_update_config(vllm_config)
        for name, value in kept.items():
            setattr(compilation, name, value)
        compilation.inductor_compile_config = inductor
        scheduler.async_scheduling = asynchronous
        compilation.compile_sizes = compilation.compile_sizes or []
        vllm_config.parallel_config.worker_cls = "ascend_test_platform.worker.Worker"
