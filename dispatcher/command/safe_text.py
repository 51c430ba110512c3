"""Text from elsewhere, made safe for a terminal."""

import re
from unicodedata import category

_PLAIN = re.compile(r"[\t\x20-\x7e]*")
_OTHERS = re.compile(r"[^\t\x20-\x7e]")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that no terminal shows."""


def clean(text: str) -> str:
    """Escape everything that would move the cursor, set colours, change the direction of text, or be invisible."""
    return text if _PLAIN.fullmatch(text) else _OTHERS.sub(_escaped, text)


def clean_json(document: str) -> str:
    """The same for a JSON document, with JSON's own escapes."""
    return _OTHERS.sub(_json_escaped, document)


def _is_visible(character: str) -> bool:
    is_shown = character.isprintable() or category(character) == "Zs"
    return is_shown and character not in _BLANK


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if _is_visible(character) else character.encode("unicode_escape").decode()


def _json_escaped(match: re.Match[str]) -> str:
    character = match[0]
    if _is_visible(character):
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
