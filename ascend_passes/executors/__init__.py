"""The engines that run a rewritten graph."""
