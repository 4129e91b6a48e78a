"""Kernels in Triton's language, one file a family: the same source for NVIDIA GPUs and for Ascend.

These files import Triton alone, neither torch nor anything of ours but each other, so that Huawei's
compiler reads them where torch is not. A program takes rows `program_id`, `program_id + programs`
and so on: one each on a GPU, many each on an NPU. `BLOCK` columns are read at a time; where `BLOCK`
is the width itself, which need be no power of two on Ascend, nothing is masked.
"""
