"""Models of other people's code, as they are or written anew from their formulas."""
