"""Whole-graph passes, one per file."""
