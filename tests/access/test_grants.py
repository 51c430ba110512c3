"""What claims allow: grants in the token, grants of the settings, and what is passed over."""

from typing import Any

import pytest

from dispatcher.access.grants import FoundGrant, check_filters, claim, find_grants, grants_of
from dispatcher.access.principal import Principal, matches
from dispatcher.auth_settings import Action, GrantRule
from dispatcher.errors import SettingsError
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.filters import on_topic
from dispatcher.settings import Settings
from testbed.tokens import AUDIENCE, ISSUER, claims, grant

TOPICS = ("orders", "audit.eu", "audit.us", "auditor")
RULES: list[dict[str, Any]] = [{"require": {"scope": "orders:read"}, "topics": ["orders"]}]


def principal(found: dict[str, Any], rules: list[dict[str, Any]] | None = None) -> Principal:
    """The bearer of these claims."""
    return Principal(ISSUER, "alice", 0.0, grants_of(find_all(found, rules)), "key")


def find_all(found: dict[str, Any], rules: list[dict[str, Any]] | None) -> list[FoundGrant]:
    """Every grant, with rules as a file has them."""
    given: Any = {"auth_issuer": ISSUER, "auth_audience": [AUDIENCE], "auth_grants": rules or []}
    return find_grants(found, Settings(**given).auth_grants)


def allowed(found: dict[str, Any], rules: list[dict[str, Any]] | None = None, action: Action = "subscribe") -> str:
    """The topics that they may read."""
    return " ".join(principal(found, rules).allowed_topics(action, TOPICS))


def reasons(found: dict[str, Any], rules: list[dict[str, Any]] | None = None) -> list[str]:
    """Why grants were passed over."""
    return [one.reason for one in find_all(found, rules) if one.grant is None]


@pytest.mark.parametrize(
    ("patterns", "topics"),
    [
        (["orders"], "orders"),
        (["audit.*"], "audit.eu audit.us"),
        (["audit*"], "audit.eu audit.us auditor"),
        (["*"], " ".join(TOPICS)),
        (["order"], ""),
        (["ORDERS"], ""),
        (["orders", "auditor"], "orders auditor"),
    ],
)
def test_topics_are_names_or_prefixes(patterns: list[str], topics: str) -> None:
    """A topic in a grant is a name, or a prefix with one final star; a dot is an ordinary character."""
    assert allowed(claims(authorization_details=[grant(*patterns)])) == topics
    assert allowed(claims(), [{"require": {}, "topics": patterns}]) == topics


def test_a_star_elsewhere_is_no_pattern() -> None:
    """A star in another place is not understood, so it allows nothing."""
    assert not matches("a*b", "axb")
    for pattern in ("a*b", "**", "*a", "", "a b", "a" * 250):
        assert allowed(claims(authorization_details=[grant(pattern)])) == ""


def test_actions_are_those_that_are_named() -> None:
    """A grant in a token allows the actions that it names; one in the settings may name none, to allow both."""
    observing = claims(authorization_details=[grant("orders", actions=("observe", "fly"))])
    assert allowed(observing) == ""
    assert allowed(observing, action="observe") == "orders"
    assert allowed(claims(), RULES, "subscribe") == allowed(claims(), RULES, "observe") == "orders"
    assert allowed(claims(), RULES, "admin") == ""
    assert principal(claims(), [{**RULES[0], "actions": ["admin"]}]).may("admin")


@pytest.mark.parametrize(
    "detail",
    [
        1,
        {**grant("orders"), "locations": ["https://elsewhere.example"]},
        {**grant("orders"), "actions": []},
        {**grant("orders"), "actions": "subscribe"},
        {**grant("orders"), "actions": ["fly"]},
        {**grant("orders"), "topics": []},
        {**grant("orders"), "topics": "orders"},
        {**grant("orders"), "topics": ["orders", 1]},
        {**grant("orders"), "filter": "all"},
        {"type": "https://dispatcher/stream"},
    ],
)
def test_what_is_not_understood_allows_nothing(detail: Any) -> None:
    """A grant that is not understood allows nothing, and is reported with its place."""
    found = claims(authorization_details=[detail])
    assert allowed(found) == ""
    assert len(reasons(found)) == 1


def test_grants_for_another_resource_are_passed_over() -> None:
    """Grants of other types are ignored: one token may hold several types (RFC 9396)."""
    other = {"type": "payment_initiation", "actions": ["subscribe"], "topics": ["orders"]}
    assert allowed(claims(authorization_details=[other, grant("auditor")])) == "auditor"
    assert reasons(claims(authorization_details=[other])) == []
    assert allowed(claims(authorization_details={"type": "x"})) == ""


def test_grants_are_alternatives() -> None:
    """A caller may do what any grant allows, in the token or in the settings."""
    found = claims(authorization_details=[grant("auditor"), grant("audit.eu", actions=("observe",))])
    assert allowed(found, RULES) == "orders auditor"


@pytest.mark.parametrize(
    ("require", "matched"),
    [
        ({}, True),
        ({"scope": "orders:read"}, True),
        ({"scope": "orders"}, False),
        ({"scope": ["admin", "orders:read"]}, True),
        ({"scope": "orders:read", "sub": "alice"}, True),
        ({"scope": "orders:read", "sub": "bob"}, False),
        ({"groups": "ops"}, True),
        ({"groups": "dev"}, False),
        ({"realm_access.roles": "reader"}, True),
        ({"https://example.org/roles": "reader"}, True),
        ({"realm_access": "roles"}, False),
        ({"nothing": "null"}, False),
        ({"none": "None"}, False),
        ({"level": "3"}, True),
        ({"verified": "true"}, True),
        ({"name": "alice b"}, True),
        ({"name": "alice"}, False),
    ],
)
def test_a_rule_requires_claims(require: dict[str, Any], matched: bool) -> None:
    """All required claims must have one of their values; only scopes are separated by spaces."""
    found = claims(
        groups=["ops", "web"],
        realm_access={"roles": ["reader"]},
        level=3,
        verified=True,
        name="alice b",
        **{"https://example.org/roles": ["reader"]},
    )
    found["none"] = None
    assert allowed(found, [{"require": require, "topics": ["orders"]}]) == ("orders" if matched else "")


def test_claims_go_into_filters() -> None:
    """Claims are filled into filters as text; one with several values where a list is allowed."""
    rule: dict[str, Any] = {
        "require": {},
        "topics": ["*"],
        "filter": {
            "all": [
                {"exact": {"header.tenant": "${claims.tenant}"}},
                {"prefix": {"key": "${claims.region.code}-${claims.level}/"}},
                {"in": {"/site": ["x", "${claims.sites}"]}},
            ]
        },
    }
    found = claims(tenant="t1", region={"code": "eu"}, level=2, sites=["a", "b"])
    assert principal(found, [rule]).filters("subscribe", "orders") == [
        read_filter(
            {
                "all": [
                    {"exact": {"header.tenant": "t1"}},
                    {"prefix": {"key": "eu-2/"}},
                    {"in": {"/site": ["x", "a", "b"]}},
                ]
            }
        )
    ]


@pytest.mark.parametrize("value", [None, [], {}, ["a", 1.5], "${claims.tenant}"])
def test_a_missing_claim_matches_nothing(value: object) -> None:
    """A claim that is missing or is not text matches nothing, and a claim is never read as a template."""
    rule = {"require": {}, "topics": ["*"], "filter": {"prefix": {"key": "x${claims.tenant}"}}}
    found = claims(tenant=value)
    if value == "${claims.tenant}":
        wanted = read_filter({"prefix": {"key": "x${claims.tenant}"}})
        assert principal(found, [rule]).filters("subscribe", "orders") == [wanted]
    else:
        assert allowed(found, [rule]) == ""
        assert "tenant" in reasons(found, [rule])[0]


def test_a_grant_without_a_filter_allows_all_of_a_topic() -> None:
    """Grants are alternatives: one without a filter shows what another one hides."""
    filtered = grant("orders", "auditor", filter={"exact": {"key": "a"}})
    both = principal(claims(authorization_details=[filtered, grant("orders")]))
    assert both.filters("subscribe", "orders") == []
    assert both.filters("subscribe", "auditor") == [read_filter({"exact": {"key": "a"}})]
    assert both.grant("subscribe", ["orders"]) is None
    grant_of_both = both.grant("subscribe", ["orders", "auditor"])
    assert grant_of_both is not None
    assert on_topic(grant_of_both, "orders") is True
    assert on_topic(grant_of_both, "auditor") == read_filter({"exact": {"key": "a"}})


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"exact": {"colour": "${claims.tenant}"}}, "filter/exact/colour: 'colour' is not a place"),
        ({"in": {"key": ["${claims.many}"]}}, "the filter compares with more than 64 values"),
    ],
)
def test_a_filter_that_cannot_be_read_allows_nothing(wanted: dict[str, Any], reason: str) -> None:
    """An unreadable filter is reported with its place, also if a claim makes it too large."""
    found = claims(tenant="t1", many=[str(n) for n in range(65)])
    rule = {"require": {}, "topics": ["*"], "filter": wanted}
    assert allowed(found, [rule]) == ""
    assert reason in reasons(found, [rule])[0]
    found["authorization_details"] = [grant("orders", filter={"exact": {"colour": "red"}})]
    assert "filter/exact/colour" in reasons(found, [])[0]


def test_filters_of_the_settings_are_checked_before_anybody_has_a_token() -> None:
    """Filters in the settings are checked at the start for any claims, which may stand for partitions."""
    right = {"all": [{"exact": {"partition": "${claims.p}"}}, {"in": {"key": ["a-${claims.k}", "${claims.many}"]}}]}
    wrong = {"exact": {"tenant": "${claims.tenant}"}}
    rules = [GrantRule(require={}, topics=("*",), filter=one) for one in (None, right, wrong)]
    check_filters(rules[:2])
    with pytest.raises(SettingsError, match=r"auth_grants\[2\].filter.*'tenant' is not a place in a record"):
        check_filters(rules)


def test_a_path_of_a_claim_ends_where_there_is_no_object() -> None:
    """The whole name of a claim is looked up before its parts."""
    assert claim({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert claim({"a": {"b": 2}}, "a.b") == 2
    assert claim({"a": "b"}, "a.b") is None


def test_a_bounded_number_of_grants_counts() -> None:
    """The token is bounded, and so is the number of grants read from it."""
    found = claims(authorization_details=[grant("orders")] * 100 + [grant("auditor")])
    assert allowed(found) == "orders"
