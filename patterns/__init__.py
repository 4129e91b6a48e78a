"""The rules, one per file: `recognize` brings spellings to NPU operators, `fuse` joins NPU
operators."""
