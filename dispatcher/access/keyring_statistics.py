"""What a keyring tells of itself; apart from it, because that needs what only an extra installs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyringStatistics:
    """A snapshot."""

    keys: int
    fetches: int
    """Since the start, failed ones included."""
    failed: int
    """Of those, the ones that brought no keys."""
