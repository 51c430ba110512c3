"""Tokens of the Python client: where they go, when a new one is asked for, and that a stream outlives its token."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
import trio

from dispatcher.client import NotAllowedError, State, WrongAddressError, subscribe
from testbed import commands
from testbed.issuer import Issuer, open_issuer
from testbed.patience import seconds
from tests.client.test_subscription import HEAD, QUICK, records, serving
from tests.hub.test_hub import ONE
from tests.web.test_authentication import Guarded, tampered

Transport = Literal["sse", "websocket"]
TRANSPORTS: tuple[Transport, ...] = ("sse", "websocket")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer of tokens."""
    async with open_issuer() as opened:
        yield opened


def url(house: Guarded) -> str:
    """Where a house serves."""
    host, port = house.server.addresses[0]
    return f"http://{host}:{port}"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_opens_the_stream(issuer: Issuer, transport: Transport) -> None:
    """A token is a text or returned by a function; a wrong one ends the subscription."""
    house = Guarded(issuer)

    async def fresh() -> str:
        return issuer.token()

    async with house.serving():
        for token in (issuer.token(), fresh):
            await house.until(lambda: house.hub.subscribers == 0)
            house.publish(ONE)
            async with subscribe(url(house), transport=transport, token=token, **QUICK) as stream:
                assert (await anext(stream)).topic == ONE.topic
        for wrong in (tampered(issuer.token()), None):
            async with subscribe(url(house), transport=transport, token=wrong, **QUICK) as stream:
                with pytest.raises(NotAllowedError):
                    await anext(stream)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_refused_token_is_replaced_once(issuer: Issuer, transport: Transport) -> None:
    """A function is asked once more; if that token is refused, too, the subscription ends."""
    house = Guarded(issuer)
    wrong = tampered(issuer.token())
    asked: list[str] = []

    def giving(*tokens: str) -> Callable[[], Any]:
        left = list(tokens)

        async def give() -> str:
            asked.append(left[0])
            return left.pop(0)

        return give

    async with house.serving():
        house.publish(ONE)
        async with subscribe(url(house), transport=transport, token=giving(wrong, issuer.token()), **QUICK) as stream:
            await anext(stream)
        async with subscribe(url(house), transport=transport, token=giving(wrong, wrong, "x"), **QUICK) as stream:
            with pytest.raises(NotAllowedError):
                await anext(stream)
    assert len(asked) == 4


async def test_a_websocket_outlives_its_token(issuer: Issuer) -> None:
    """It sends the next token when the server asks for it, and the connection stays open."""
    house = Guarded(issuer)
    given: list[str] = []

    async def fresh() -> str:
        given.append(issuer.token(exp=int(time.time()) + (1000 if given else 3)))
        return given[-1]

    async with house.serving(), subscribe(url(house), transport="websocket", token=fresh, **QUICK) as stream:
        house.publish(ONE)
        await anext(stream)
        await house.until(lambda: bool(given[1:]) and house.authentication.sessions.open[0].due > time.time() + 900)
        house.publish(ONE)
        assert (await anext(stream)).offset == 1
        assert (stream.statistics().attempts, stream.repeats) == (1, 0)


async def test_a_stream_of_events_resumes_with_the_next_token(issuer: Issuer) -> None:
    """Each record arrives once."""
    house = Guarded(issuer)

    async def fresh() -> str:
        return issuer.token(exp=int(time.time()) + 2)

    async with house.serving(), subscribe(url(house), token=fresh, **QUICK) as stream:
        offsets = []
        for _ in range(2):
            house.publish(ONE)
            offsets.append((await anext(stream)).offset)
            await house.until(lambda: house.hub.subscribers == 0)
        house.publish(ONE)
        offsets.append((await anext(stream)).offset)
        assert offsets == [0, 1, 2]
        assert stream.repeats == 0
        assert stream.statistics().attempts >= 3


async def test_a_function_that_fails_is_asked_again() -> None:
    """Its issuer may be down for a while; the state says so, and the exception ends nothing."""
    heads = []

    async def answer(stream: trio.abc.Stream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(HEAD + records("assets:0=0"))
        await trio.sleep_forever()

    outcomes: list[Any] = [OSError("away"), "a\r\nb", 1, "right"]

    async def give() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return "" if outcome == 1 else outcome

    with trio.fail_after(seconds(60)):
        async with serving(answer) as host, subscribe(f"http://{host}", token=give, **QUICK) as stream:
            states = []
            async for event in stream.events():
                if not isinstance(event, State):
                    break
                states.append(event.reason)
    assert any("away" in str(reason) for reason in states)
    assert len(heads) == 1
    assert b"Authorization: Bearer right\r\n" in heads[0]


async def test_a_token_follows_no_redirect_to_another_origin() -> None:
    """Neither a text nor a function's token is sent to another origin."""
    heads: list[bytes] = []

    async def there(stream: trio.abc.Stream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(HEAD + records("assets:0=0"))
        await trio.sleep_forever()

    async with serving(there) as elsewhere:

        async def here(stream: trio.abc.Stream, head: bytes) -> None:
            heads.append(head)
            location = f"Location: http://{elsewhere}/events\r\nContent-Length: 0\r\n\r\n".encode()
            await stream.send_all(b"HTTP/1.1 307 Temporary Redirect\r\n" + location)

        async def give() -> str:
            return "secret"

        with trio.fail_after(seconds(60)):
            async with serving(here) as host:
                for token in ("secret", give):
                    async with subscribe(f"http://{host}", token=token, **QUICK) as stream:
                        await anext(stream)
    assert [b"secret" in head for head in heads] == [True, False] * 2


async def test_what_cannot_be_a_token_is_refused_at_once() -> None:
    """So is a token beside an Authorization header."""
    for options in ({"token": "a b"}, {"token": "a\r\nX: y"}, {"token": "a", "headers": {"AUTHORIZATION": "b"}}):
        with pytest.raises(WrongAddressError) as raised:
            async with subscribe("http://127.0.0.1", **options):
                pass
        assert "X: y" not in str(raised.value)


async def test_tail_reads_its_token_from_a_file(issuer: Issuer, tmp_path: Path) -> None:
    """It reads the file for each connection; a missing file is wrong usage."""
    house = Guarded(issuer)
    path = tmp_path / "token"
    command = ["tail", "--count=1", "--format={offset}"]
    async with house.serving(60):
        house.publish(ONE)
        path.write_text(issuer.token() + "\n")
        done = await commands.run(*command, "--token-file", str(path), url(house))
        assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr
        path.write_text(tampered(issuer.token()))
        done = await commands.run(*command, "--token-file", str(path), url(house))
        assert done.returncode == 3
        assert path.read_text()[20:60].encode() not in done.stdout + done.stderr
    done = await commands.run(*command, "--token-file", str(tmp_path / "nothing"), "http://127.0.0.1")
    assert done.returncode == 2


def test_the_case_of_an_expired_token_is_one_of_all_clients() -> None:
    """The case is in the table that all clients share."""
    cases = orjson.loads((Path(__file__).parents[1] / "client_cases" / "cases.json").read_bytes())
    assert any(case["name"] == "goodbye-4419" for case in cases["cases"])
