"""The statistics of a keyring. They have a file of their own, because the keyring needs what only an extra installs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyringStatistics:
    """A snapshot."""

    keys: int
    fetches: int
    """Since the start, failed ones included."""
    failed: int
    """Of those, the ones that brought no keys."""
