"""How keys and values that were not decoded are written, where a topic's settings say so instead of the bytes."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Encoding = Literal["auto", "text", "base64"]
"""``auto``: text if the bytes are UTF-8, otherwise base64; ``text``: what is not UTF-8 becomes U+FFFD; ``base64``."""


class Spelling(NamedTuple):
    """How a topic's keys and values are written."""

    key: Encoding = "auto"
    value: Encoding = "auto"


AUTO = Spelling()


def as_text(column: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """The same bytes where they are UTF-8, and UTF-8 with U+FFFD in place of what is not."""
    return [None if one is None else one if _is_utf8(one) else one.decode(errors="replace").encode() for one in column]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
