"""Groups of ranks: who is in them, who is there, and how one tells the others."""
