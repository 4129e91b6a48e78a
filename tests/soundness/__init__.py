"""A compiled function behaves as `aot_eager` compiles it, in everything that can be observed.

`python -m tests.soundness` runs all sweeps; `docs/soundness.md` says what they compare.
"""
