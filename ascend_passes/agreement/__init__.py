"""Ranks that compile one model come to the same graph, or say how they differ."""
