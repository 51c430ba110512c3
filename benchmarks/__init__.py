"""The benchmarks of ``nox -s bench``, one per module."""
