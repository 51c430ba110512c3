"""What users start from or choose instead, beside the dispatcher: the same load, the same broker, the same run."""

from benchmarks.peers.comparison import COLUMNS, PAGE, cells, run, series

__all__ = ["COLUMNS", "PAGE", "cells", "run", "series"]
