"""Random decoder graphs as a test of the whole compiler; `python -m tests.fuzz --help`.

Plain torch only: no test framework is imported, so that it runs on machines without one.
"""
