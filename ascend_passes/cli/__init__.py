"""The command line, one command per file; `ascend_passes.__main__` wires them together."""
