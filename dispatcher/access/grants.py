"""What the claims of a token allow: grants in the token itself (RFC 9396), and grants in the settings.

Rules of this module:

* Grants are alternatives: a caller may do whatever any of them allows.
* Whatever is not understood allows nothing. An unknown member of a grant may be a restriction, so the whole grant is
  ignored.
* A claim that is missing, or that does not fit its place in a filter, matches nothing: the grant is ignored.
* Every ignored grant is reported, for `dispatcher config --explain-token`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dispatcher.access.principal import Grant
from dispatcher.auth_settings import ACTIONS, TOPICS_REMEDY, GrantRule, claim_of, is_pattern, templates
from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.sansio.filter_dialect import FilterError, read_filter
from dispatcher.sansio.filters import Filter

DETAILS_CLAIM = "authorization_details"
"""RFC 9396, section 9.1."""

DETAILS_TYPE = "https://dispatcher/stream"

MAX_GRANTS = 100
"""How many grants one token may hold; further ones are ignored."""

MAX_TOPICS = 1000
"""How many topics one grant in a token may name."""

_MEMBERS = frozenset({"type", "actions", "topics", "filter"})


@dataclass(frozen=True, slots=True)
class FoundGrant:
    """One grant, in the token or in the settings, and what became of it."""

    place: str
    """Where the grant is, such as ``authorization_details[0]`` or ``auth_grants[1]``."""
    grant: Grant | None
    """What the grant allows; None: nothing."""
    reason: str = ""
    """Why the grant allows nothing."""


class _UnusableError(Exception):
    """A grant allows nothing; the message is the reason."""


def find_grants(claims: Mapping[str, Any], rules: Sequence[GrantRule]) -> list[FoundGrant]:
    """Return every grant in the token, then every grant of the settings."""
    found = []
    details = claims.get(DETAILS_CLAIM, [])
    for number, detail in enumerate(details[:MAX_GRANTS] if isinstance(details, list) else [details]):
        place = f"{DETAILS_CLAIM}[{number}]"
        if isinstance(detail, dict) and detail.get("type") != DETAILS_TYPE:
            continue  # for another resource
        found.append(_found(place, _read_detail, detail, claims))
    for number, rule in enumerate(rules):
        found.append(_found(f"auth_grants[{number}]", _apply, rule, claims))
    return found


def check_filters(rules: Sequence[GrantRule]) -> None:
    """Check that the filters of the settings can be read, whatever the claims are.

    Raises:
        SettingsError: a filter cannot be read.
    """
    problems = []
    for number, rule in enumerate(rules):
        if rule.filter is not None:
            try:
                # A number is valid everywhere, even as a partition.
                read_filter(_replaced(rule.filter, lambda _: "1"))
            except FilterError as error:
                problems.append(SettingsProblem(f"auth_grants[{number}].filter", str(rule.filter), str(error)))
    if problems:
        raise SettingsError(problems)


def grants_of(found: Iterable[FoundGrant]) -> tuple[Grant, ...]:
    """Return the grants that allow something."""
    return tuple(one.grant for one in found if one.grant is not None)


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a dotted path such as ``realm_access.roles``; None if it is missing."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _found(place: str, read: Any, *arguments: Any) -> FoundGrant:
    try:
        return FoundGrant(place, read(*arguments))
    except _UnusableError as error:
        return FoundGrant(place, None, str(error))


def _read_detail(detail: object, claims: Mapping[str, Any]) -> Grant:
    if not isinstance(detail, dict):
        raise _UnusableError("it is not an object")
    if unknown := sorted(detail.keys() - _MEMBERS):
        raise _UnusableError(f"its member {_shown(unknown[0])} is unknown, and may be a restriction")
    topics = _strings(detail.get("topics"), "topics")[:MAX_TOPICS]
    if wrong := [topic for topic in topics if not is_pattern(topic)]:
        raise _UnusableError(f"{_shown(wrong[0])} is not one of: {TOPICS_REMEDY}")
    actions = frozenset(_strings(detail.get("actions"), "actions")) & frozenset(ACTIONS)
    if not actions:
        raise _UnusableError(f"it has none of the actions {', '.join(ACTIONS)}")
    return Grant(actions, tuple(topics), _filled(detail.get("filter"), claims))


def _apply(rule: GrantRule, claims: Mapping[str, Any]) -> Grant:
    for name, wanted in rule.require.items():
        if not set(wanted) & _values(claim(claims, name), is_scope=name in {"scope", "scp"}):
            raise _UnusableError(f"it requires {' or '.join(wanted)} in the claim {name}")
    return Grant(frozenset(rule.actions), rule.topics, _filled(rule.filter, claims))


def _values(value: Any, *, is_scope: bool) -> set[str]:
    """Return the values of a claim; scopes are separated by spaces (RFC 8693, section 4.2)."""
    if isinstance(value, list):
        return {text for one in value if (text := _text(one)) is not None}
    text = _text(value)
    if text is None:
        return set()
    return set(text.split(" ")) if is_scope else {text}


def _text(value: object) -> str | None:
    """Return a claim as text; None if it cannot be one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    return None


def _filled(record_filter: object, claims: Mapping[str, Any]) -> Filter | None:
    if record_filter is None:
        return None
    if not isinstance(record_filter, Mapping):
        raise _UnusableError("its filter is not an object")
    try:
        return read_filter(_replaced(record_filter, lambda text: _fill_text(text, claims)))
    except FilterError as error:
        raise _UnusableError(f"its filter cannot be read: {error}") from None


def _replaced(value: Any, replace: Callable[[str], str | list[str]]) -> Any:
    """Return a filter with each text replaced in which claims may be named."""
    if isinstance(value, str):
        return replace(value) if "${" in value else value
    if isinstance(value, Mapping):
        return {name: _replaced(inner, replace) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        filled = [_replaced(inner, replace) for inner in value]
        # A claim with several values may be an item of a list.
        return [each for one in filled for each in (one if isinstance(one, list) else [one])]
    return value


def _fill_text(text: str, claims: Mapping[str, Any]) -> str | list[str]:
    """Replace each ``${claims.NAME}`` in a text; returns a list if the text is just one claim with several values."""
    filled, end = [], 0
    for match in templates(text):
        name = claim_of(match[1])
        value = None if name is None else claim(claims, name)
        if isinstance(value, list) and match[0] == text:
            values = [_text(one) for one in value]
            if values and None not in values:
                return [one for one in values if one is not None]
        part = _text(value)
        if part is None:
            raise _UnusableError(f"its filter needs the claim {name}, which the token does not have as text")
        filled += [text[end : match.start()], part]
        end = match.end()
    return "".join([*filled, text[end:]])


def _strings(value: object, member: str) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return value
    raise _UnusableError(f"its {member} are not a list of strings")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
