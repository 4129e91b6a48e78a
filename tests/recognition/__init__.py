"""Recognition by meaning: composed spellings, near misses, and forms that others wrote."""
