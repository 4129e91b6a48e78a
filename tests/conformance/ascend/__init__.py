"""Our kernels, compiled for Ascend by Huawei's own compiler and run on the CPU.

The wheels triton-ascend and ascendnpu-ir hold the compiler up to its last text, HIVM: with the plan
of the unified buffer, the synchronization flags and the calls of Huawei's device library. The
closed code generator behind it is in no wheel. That text and the device library, linked for the CPU
above `inside/vector_core.c`, compute what the kernel computes, and faults of memory and of missing
waits show. What this says is "compiles to HIVM for Ascend910B1 with Huawei's compiler 1.2.0, and
that HIVM runs right on a CPU over Huawei's device library", not "runs on an NPU".
"""
