"""How long tests wait before they give up: one unit for all, so that a slow machine needs one variable."""

import os

VARIABLE = "TESTBED_PATIENCE"
"""Factor of every deadline. 1: a quiet machine is given what it needs and some more."""

DEFAULT = 3.0
"""Generous: a deadline costs nothing while what is waited for comes."""


class TooLateError(AssertionError):
    """What a test waits for did not come before the deadline: the machine was too slow for it, or it never comes.

    Which of both it was is seen by running the test again, alone (testbed/tiers.py).
    """


def seconds(number: float) -> float:
    """A deadline: this many seconds on a quiet machine, times the factor of `VARIABLE`.

    For waits that end with a condition. What must last for a time, such as how long a node is away, is no deadline.

    Raises:
        ValueError: the variable holds no number above 0.
    """
    factor = float(os.environ.get(VARIABLE, DEFAULT))
    if not factor > 0:
        raise ValueError(f"{VARIABLE} must be above 0: {factor:g}")
    return number * factor
