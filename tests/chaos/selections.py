"""What readers with filters ask for, and which records match: known from a record's offset alone.

Pure. One producer writes the topic, round robin and in order, so that the offset of a record says everything about it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import orjson

KEYS, TENANTS, STATES = 9, 4, 3
NOBODYS_KEY = "x9"
"""Every tenth record has it, and nothing else that a filter could select, but for the one of `NOBODYS`."""


def is_nobodys(offset: int) -> bool:
    """Whether no reader wants the record until the end."""
    return offset % (KEYS + 1) == KEYS


def key_of(offset: int) -> str:
    """The key of the record at an offset."""
    return NOBODYS_KEY if is_nobodys(offset) else f"k{offset % (KEYS + 1)}"


def tenant_of(offset: int) -> str | None:
    """Its header ``tenant``, if it has one."""
    return None if is_nobodys(offset) else f"t{offset % TENANTS}"


def state_of(offset: int) -> str | None:
    """The field ``/state`` of its value, if it has one."""
    return None if is_nobodys(offset) else f"s{offset % STATES}"


def value_of(offset: int) -> bytes:
    """Its value."""
    return orjson.dumps({"n": offset} if is_nobodys(offset) else {"n": offset, "state": state_of(offset)})


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter as a reader asks for it."""

    query: str
    """Begins with ``&``."""
    wants: Callable[[int], bool]
    """Whether the record at an offset matches."""

    @classmethod
    def of(cls, wants: Callable[[int], bool], *parameters: tuple[str, str]) -> "Selection":
        """A selection with these query parameters."""
        return cls("&" + urlencode(parameters), wants)


NOBODYS = Selection.of(is_nobodys, ("key", NOBODYS_KEY))
EVERYBODYS = Selection.of(lambda offset: not is_nobodys(offset), ("key_prefix", "k"))


def draw_selection(chance: random.Random) -> Selection:
    """Draw a filter by key, header or field, by several of them, or in the dialect; one that matches something."""
    key, other = (f"k{chance.randrange(KEYS)}" for _ in range(2))
    tenant, state = f"t{chance.randrange(TENANTS)}", f"s{chance.randrange(STATES)}"
    dialect = {
        "all": [
            {"exists": {"header.tenant": True}},
            {"not": {"suffix": {"key": key[1:]}}},
            {"any": [{"exact": {"/state": state}}, {"in": {"key": [key, other]}}]},
        ]
    }
    return chance.choice(
        (
            Selection.of(lambda n: key_of(n) == key, ("key", key)),
            Selection.of(lambda n: key_of(n) in {key, other}, ("key", key), ("key", other)),
            Selection.of(lambda n: tenant_of(n) == tenant, ("header", f"tenant:{tenant}")),
            Selection.of(lambda n: state_of(n) == state, ("field", f"/state:{state}")),
            Selection.of(
                lambda n: (tenant_of(n), state_of(n)) == (tenant, state),
                ("header", f"tenant:{tenant}"),
                ("field", f"/state:{state}"),
            ),
            Selection.of(
                lambda n: (
                    not is_nobodys(n) and key_of(n) != key and (state_of(n) == state or key_of(n) in {key, other})
                ),
                ("filter", orjson.dumps(dialect).decode()),
            ),
            EVERYBODYS,
        )
    )
