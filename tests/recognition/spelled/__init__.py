"""Spellings of operators as people write them, and near misses, a file a family."""
