"""Rules: how they are declared, found, matched and applied, on graphs in normal form."""
