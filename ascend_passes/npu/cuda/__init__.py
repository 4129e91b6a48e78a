"""The kernels of `ascend_passes.npu.kernels` as operators on CUDA: one file a family.

A file has, for each operator, a function of the operator's arguments that launches the kernel, or
raises `Defeated` with the reason where the call is none that the kernel takes; the reference runs
then, and the reason is told once.
"""
