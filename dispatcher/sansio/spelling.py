"""How keys and values that were not decoded are written, if a topic's settings name another way than the default."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Encoding = Literal["auto", "text", "base64"]
"""``auto``: text if the bytes are UTF-8, and base64 otherwise. ``text``: U+FFFD replaces invalid UTF-8. ``base64``:
always base64."""


class Spelling(NamedTuple):
    """How a topic's keys and values are written."""

    key: Encoding = "auto"
    value: Encoding = "auto"


AUTO = Spelling()


def as_text(column: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """Return the same bytes, with U+FFFD in place of anything that is not UTF-8."""
    return [None if one is None else one if _is_utf8(one) else one.decode(errors="replace").encode() for one in column]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
