"""What a graph is: its nodes, what they read, write and share, and the one tracer."""
