"""Recognition by meaning: what a piece of a graph computes, in whatever spelling."""
