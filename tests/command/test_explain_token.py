"""``dispatcher config --explain-token``: what a token may, with the reasons, and never the token."""

import time
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from dispatcher.command.main import main
from testbed.tokens import AUDIENCE, ISSUER, claims, grant, jwks, sign, signing_key, token

CONFIG = f"""
topics = ["orders", "audit.eu"]
[auth]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
keys_file = "%s"
[[auth.grants]]
require = {{ scope = "orders:read" }}
topics = ["orders"]
[[auth.grants]]
require = {{ groups = "auditors" }}
topics = ["audit.*"]
filter = {{ exact = {{ "header.tenant" = "${{claims.tenant}}" }} }}
"""


def explained(tmp_path: Path, text: str, *, keys: bytes | None = None) -> tuple[int, str]:
    """The exit code, and what was printed."""
    (tmp_path / "keys.json").write_bytes(keys or jwks())
    (tmp_path / "dispatcher.toml").write_text(CONFIG % (tmp_path / "keys.json"))
    (tmp_path / "token").write_text(text)
    arguments = ["config", "--config", str(tmp_path / "dispatcher.toml"), "--explain-token"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "token")])
    from_stdin = CliRunner().invoke(main, [*arguments, "-"], input=text)
    assert done.exit_code == from_stdin.exit_code
    for part in text.split("."):
        assert len(part) < 9 or part not in done.output
    return done.exit_code, done.output


def test_what_a_token_may_is_said(tmp_path: Path) -> None:
    """The output lists the grants that allow something, and those that do not."""
    code, said = explained(tmp_path, f"Bearer {token()}\n")
    assert code == 0
    assert "subject  'alice'" in said
    assert "auth_grants[0]: observe, subscribe on orders" in said
    assert "auth_grants[1]: allows nothing: it requires auditors in the claim groups" in said
    assert said.endswith("so it may:\n  subscribe orders\n  observe orders\n")


def test_filters_are_shown_with_the_claims_in_them(tmp_path: Path) -> None:
    """A missing claim is named."""
    auditor = {"scope": "", "groups": ["auditors"]}
    code, said = explained(tmp_path, token(**auditor, tenant="t1"))
    assert code == 0
    assert 'subscribe audit.eu, records that match {"exact":{"header.tenant":"t1"}}' in said
    code, said = explained(tmp_path, token(**auditor))
    assert code == 1
    assert "its filter needs the claim tenant" in said
    assert said.endswith("so it may:\n  nothing\n")


def test_grants_in_the_token_are_explained(tmp_path: Path) -> None:
    """Each grant is shown with its place."""
    details = [grant("audit.*", actions=("admin",)), {**grant("orders"), "until": "noon"}]
    code, said = explained(tmp_path, token(scope="", authorization_details=details))
    assert code == 0
    assert "authorization_details[1]: allows nothing: its member 'until' is unknown" in said
    assert said.endswith("  admin audit.eu\n  admin\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (token(aud="billing"), "audience (aud)"),
        (sign(claims(), signing_key("ES256", 1)), "its key is not one of the issuer's"),
        (token(exp=time.time() - 60), "it has expired"),
        ("x", "three parts"),
    ],
)
def test_a_token_that_is_refused_says_why(tmp_path: Path, text: str, reason: str) -> None:
    """The reason is printed, and the exit code is 1."""
    code, said = explained(tmp_path, text)
    assert code == 1
    assert reason in said


def test_what_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    """An unreadable token or key file, or no issuer, is exit code 2."""
    code, said = explained(tmp_path, token(), keys=orjson.dumps({"keys": []}))
    assert code == 2
    assert "auth_keys_file" in said
    for more in ([], ["--auth-issuer=https://x", "--auth-audience=x"]):
        assert CliRunner().invoke(main, ["config", *more, "--explain-token", "/nothing"]).exit_code == 2
