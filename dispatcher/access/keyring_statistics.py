"""The statistics of a keyring, in a separate file because the keyring itself needs the packages of an extra."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyringStatistics:
    """A snapshot."""

    keys: int
    fetches: int
    """Fetches since the start, including failed ones."""
    failed: int
    """Fetches that brought no keys."""
