"""What every short-lived rank needs, done once in the process that they are forked from."""

import torch

import ascend_passes

torch.set_num_threads(1)
torch.compile(lambda x: x * 2, backend=ascend_passes.ascend_dense)(torch.ones(2))
torch._dynamo.reset()
torch._dynamo.utils.clear_compilation_metrics()
