"""Memory: what is written in place, and what need not be written at all."""
