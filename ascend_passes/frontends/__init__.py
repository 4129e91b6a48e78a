"""Operators of other projects in NPU operators and plain aten."""
