"""NPU operators that stand next to each other become one."""
