"""Whole-graph passes; a family of several files is a package."""
