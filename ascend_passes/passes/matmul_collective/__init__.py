"""A matmul and the collective beside it as one operator."""
