"""The live page in Chromium, with a hub in this process and no Kafka: what it shows, and what records cannot do."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest
import trio

from dispatcher.sansio.decoded import Decoded
from dispatcher.sansio.records import Batch, Record, Records, TopicPartition
from dispatcher.web.app import create_app
from dispatcher.web.operations import Operations
from dispatcher.web.server import Server
from testbed.browser import Page, open_profile
from testbed.patience import seconds
from tests.hub.test_hub import ONE, TWO, Bench
from tests.worst.run import servers

MIB = 1024 * 1024


class Told:
    """What ``/status`` tells (`web.operations.Operations`)."""

    async def status_page(self) -> bytes:
        """Two partitions; fetching of the second is paused."""
        return orjson.dumps(self.status())

    def status(self) -> dict[str, Any]:
        """The same, not encoded yet."""
        return {
            "replica": "replica",
            "partitions": [
                {
                    "topic": ONE.topic,
                    "partition": n,
                    "position": 12_345,
                    "committed": 12_340,
                    "lag": 5,
                    "waiting_records": 0,
                    "paused": n == 1,
                }
                for n in range(2)
            ],
            "subscribers": {"live": 3, "catching-up": 1, "total": 4},
            "records": {"waiting": 0},
        }


class House(Bench):
    """A hub, the server in front of it, and a page that shows it."""

    page: Page

    def __init__(self) -> None:
        super().__init__(bind="127.0.0.1:0", topics=[ONE.topic])
        app = create_app(self.hub, self.settings, cast("Operations", Told()))
        self.server = Server(app, self.settings, direct=app.direct)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server.addresses[0]
        return f"http://{host}:{port}/"

    def write(
        self,
        value: bytes | None,
        key: bytes | None = None,
        partition: TopicPartition = ONE,
        timestamp_ms: int | None = 1_700_000_000_000,
    ) -> None:
        """One record with a header."""
        record = Record(self.number, timestamp_ms, key, value, (("<b>name</b>", b"<i>header</i>"),))
        self.replays.log.append((partition, record))
        self.hub.publish(Batch(partition, (record,)))
        self.number += 1

    async def values(self) -> list[str]:
        """What the list shows, from top to bottom."""
        script = "[...document.querySelectorAll('#records .value')].map((e) => e.textContent)"
        return list(await self.page.run(script))


@asynccontextmanager
async def open_page(query: str = "?observe=0") -> AsyncIterator[House]:
    """A page that is live, within the ``async with`` block; the browser has complained about nothing at its end."""
    house = House()
    with trio.fail_after(seconds(90)):
        async with open_profile() as browser, trio.open_nursery() as nursery:
            nursery.start_soon(house.hub.run)
            await nursery.start(house.server.serve)
            house.page = await browser.new_page()
            await house.page.open(house.url + query)
            await house.page.until("document.querySelector('#badge')?.dataset.state === 'live'")
            yield house
            assert house.page.complaints == []
            nursery.cancel_scope.cancel()


async def shown(page: Page, number: int) -> None:
    """Return when the list has this many records."""
    await page.until(f"document.querySelectorAll('#records > li').length === {number}")


async def test_records_are_listed_and_open_to_their_json() -> None:
    """The newest is on top; an open record shows headers and indented JSON with the original numbers."""
    async with open_page() as house:
        house.write(b"first")
        house.write(b'{"id":12345678901234567890,"list":[1,{}],"text":"a:b,{c}\\"d"}', b"key-1")
        await shown(house.page, 2)
        assert (await house.values())[1] == "first"
        await house.page.run("document.querySelector('#records .row').click()")
        assert await house.page.run("document.querySelector('#records pre').textContent") == (
            '{\n  "id": 12345678901234567890,\n  "list": [\n    1,\n    {}\n  ],\n  "text": "a:b,{c}\\"d"\n}'
        )
        detail = await house.page.run("document.querySelector('.detail dl').innerText")
        assert "Header <b>name</b>\n<i>header</i>" in detail
        assert "Key\nkey-1" in detail


async def test_everything_from_a_record_is_text() -> None:
    """Markup in values, keys and headers is shown as written, and nothing of it runs."""
    async with open_page() as house:
        attack = '<img src=x onerror="window.caught=1"><script>window.caught=1</script>'
        house.write(attack.encode(), attack.encode())
        house.write(orjson.dumps({attack: attack}))
        await shown(house.page, 2)
        assert (await house.values())[1] == attack
        await house.page.run("document.querySelectorAll('#records .row').forEach((row) => row.click())")
        assert attack in await house.page.run("document.querySelectorAll('#records pre')[1].textContent")
        assert await house.page.run("document.querySelectorAll('#records img, #records script').length") == 0
        assert await house.page.run("window.caught") is None


async def test_a_large_record_does_no_harm() -> None:
    """A record of 1 MiB is listed by its beginning and opened in part, so the page stays responsive."""
    async with open_page() as house:
        house.write(b'{"text":"' + b"x" * MIB + b'"}')
        house.write(b"y" * MIB)
        house.write(b"\xff" * MIB)
        await shown(house.page, 3)
        assert [len(value) <= 240 for value in await house.values()] == [True] * 3
        await house.page.run("document.querySelectorAll('#records .row').forEach((row) => row.click())")
        sizes = await house.page.run("[...document.querySelectorAll('#records pre')].map((e) => e.textContent.length)")
        assert sizes == [64 * 1024] * 3
        house.write(b"next")
        await house.page.press("Escape")
        await shown(house.page, 4)


async def test_what_is_kept_while_paused_is_bounded_in_bytes() -> None:
    """Large records take the place of several; records of 8 MiB are kept, cut as shown."""
    async with open_page() as house:
        await house.page.press("p")
        await house.page.until("document.querySelector('#note').textContent === 'paused, 0 new'")
        for _ in range(200):
            house.write(b"y" * 70_000)
        await house.page.until("document.querySelector('#note').textContent === 'paused, 200 new'")
        await house.page.press("p")
        await house.page.until("document.querySelectorAll('#records > li').length > 0")
        assert 100 < await house.page.run("document.querySelectorAll('#records > li').length") < 130


async def test_null_and_bytes_are_named() -> None:
    """Tombstones and values that are not UTF-8 are distinguished from text."""
    async with open_page() as house:
        house.write(None, b"gone")
        house.write(b"\xff\x00")
        await shown(house.page, 2)
        assert await house.values() == ["binary /wA=", "tombstone"]


async def test_any_timestamp_and_any_offset_is_shown() -> None:
    """Other units become times, impossible times numbers, and offsets above 2^53 keep all digits.

    A record opens whatever its time is, and the latency takes no unknown unit for a time.
    """
    async with open_page() as house:
        house.number = 2**53 + 1
        for timestamp in (None, -1, 0, 1_795_429_533_864_250, 1_795_429_533_864_250_125, 2**63 - 1, -(2**63)):
            house.write(b"x", timestamp_ms=timestamp)
        await shown(house.page, 7)
        times = "[...document.querySelectorAll('#records .time')].map((e) => e.textContent).reverse()"
        none, minus, zero, micro, nano, most, least = await house.page.run(times)
        assert (none, minus) == ("\u2013", "\u2013")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.000", zero)
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.864 µs", micro)
        assert (nano[:12], nano[12:]) == (micro[:12], " ns")
        assert (most, least) == ("9223372036854775808", "-9223372036854775808")  # numbers of JavaScript are rounded
        ids = "[...document.querySelectorAll('#records > li')].map((e) => e.dataset.id).reverse()"
        assert await house.page.run(ids) == [f"{ONE}={2**53 + 1 + n}" for n in range(7)]
        offsets = await house.page.run("[...document.querySelectorAll('#records .place b')].map((e) => e.textContent)")
        assert offsets[0] == str(2**53 + 7)
        await house.page.run("document.querySelectorAll('#records .row').forEach((row) => row.click())")
        details = await house.page.run("[...document.querySelectorAll('.detail dl')].map((e) => e.innerText).reverse()")
        assert len(details) == 7
        assert ["Written" in detail for detail in details] == [False, False, True, True, True, True, True]
        assert "2026-11-23T10:25:33.864Z, written as 1795429533864250 µs" in details[3]
        assert "9223372036854775808, in an unknown unit" in details[5]
        assert f"offset {2**53 + 6}" in details[5]
        await house.page.until("document.querySelector('#latency-note').textContent.startsWith('median')")
        assert "NaN" not in await house.page.run("document.body.innerText")


async def test_the_filter_looks_at_every_record() -> None:
    """It searches text and keys of earlier records, too, and without a filter everything is shown again."""
    async with open_page() as house:
        for n in range(6):
            house.write(f"value {n} Apple".encode(), f"key-{n % 2}".encode())
        await shown(house.page, 6)
        await house.page.press("/")
        assert await house.page.run("document.activeElement.id") == "filter"
        await house.page.send("Input.insertText", text="key:KEY-1")
        await shown(house.page, 3)
        house.write(b"key-1 in the value alone")
        house.write(b"apple", b"key-1")
        await shown(house.page, 4)
        assert (await house.values())[0] == "apple"
        await house.page.press("Escape")
        assert await house.page.run("document.querySelector('#filter').value") == ""


async def test_the_filter_box_runs_on_the_replica() -> None:
    """Enter asks the replica for these records, and an empty box for all; the address has the filter."""
    async with open_page() as house:
        page = house.page
        house.write(b"first", b"mine")
        await shown(page, 1)
        await page.press("/")
        await page.send("Input.insertText", text="key=mine&key=a+b")
        await page.until("document.querySelector('#note').textContent.startsWith('Enter')")
        await shown(page, 1)
        await page.press("Enter")
        await page.until("location.search === '?observe=0&key=mine&key=a%2Bb'")
        await page.until("document.querySelector('#badge')?.dataset.state === 'live'")
        assert await page.run("document.querySelector('#filter').value") == "key=mine&key=a+b"
        for key in (b"mine", b"other", b"a+b"):
            house.write(b"of " + key, key)
        await shown(page, 2)
        assert await house.values() == ["of a+b", "of mine"]
        await page.until("document.querySelector('#note').textContent.startsWith('filtered by the replica')")
        await page.press("/")
        await page.press("Escape")
        await page.press("Enter")
        await page.until("location.search === '?observe=0'")
        await page.until("document.querySelector('#badge')?.dataset.state === 'live'")
        house.write(b"of all", b"other")
        await page.until("document.querySelector('#records .value')?.textContent === 'of all'")


async def test_it_is_paused_and_goes_on_by_keyboard() -> None:
    """Key p holds the list and shows the number of new records; arrows move, Enter opens, Escape closes."""
    async with open_page() as house:
        house.write(b"one")
        house.write(b"two")
        await shown(house.page, 2)
        await house.page.press("p")
        house.write(b"three")
        await house.page.until("document.querySelector('#note').textContent === 'paused, 1 new'")
        await shown(house.page, 2)
        await house.page.press("p")
        await shown(house.page, 3)
        for key in ("ArrowDown", "ArrowDown", "Enter"):
            await house.page.press(key)
        await house.page.until("document.querySelector('.open .value')?.textContent === 'two'")
        await house.page.press("Escape")
        await house.page.until("document.querySelector('.open') === null")


async def test_the_keyboard_in_the_list_holds_it_still() -> None:
    """The focused record does not move; Escape leaves the record, and then the list."""
    async with open_page() as house:
        house.write(b"one")
        house.write(b"two")
        await shown(house.page, 2)
        for key in ("ArrowDown", "ArrowDown", "Enter", "Tab"):
            await house.page.press(key)
        await house.page.until("document.activeElement.localName === 'pre'")
        house.write(b"three")
        await house.page.until("document.querySelector('#note').textContent === 'paused, 1 new'")
        await house.page.press("Escape")
        assert await house.page.run("document.activeElement.querySelector('.value').textContent") == "one"
        await shown(house.page, 2)
        await house.page.press("Escape")
        await shown(house.page, 3)
        assert await house.page.run("document.activeElement.id") == "records"


async def test_tab_goes_from_top_to_bottom_and_passes_the_list_in_one_step() -> None:
    """Links, filter, button, list and partitions follow, not two hundred records."""
    async with open_page() as house:
        for n in range(50):
            house.write(str(n).encode())
        await shown(house.page, 50)
        await house.page.until("document.querySelector('.rows') !== null")
        stops = []
        for _ in range(7):
            await house.page.press("Tab")
            stops.append(
                await house.page.run(
                    "(({ id, textContent, className }) => id || className || textContent)(document.activeElement)"
                )
            )
        assert stops == ["switch", "status", "metrics", "filter", "pause", "records", "rows"]


async def test_a_screen_reader_hears_what_lasts_and_nothing_else() -> None:
    """One region announces a state once it has lasted, and no figure, record or attempt."""
    async with open_page() as house:
        said = r"/^live, [^:]+: records arrive as they are written$/.test(document.querySelector('#said').textContent)"
        await house.page.until(said)
        speaking = "[...document.querySelectorAll('output, [aria-live], [role=status], [role=log], [role=alert]')]"
        assert await house.page.run(f"{speaking}.map(({{ id }}) => id)") == ["said"]
        house.write(b"one")
        await shown(house.page, 1)
        assert await house.page.run(said)


@pytest.mark.parametrize("width", [640, 320], ids=["zoomed to 200 %", "zoomed to 400 %"])
async def test_nothing_is_cut_off_at_high_zoom(width: int) -> None:
    """A window of 1280 pixels has as many CSS pixels then: nothing has to be scrolled sideways (WCAG 2.2, 1.4.10)."""
    async with open_page() as house:
        house.write(b'{"text":"' + b"x" * 5000 + b'"}', b"k" * 300)
        await shown(house.page, 1)
        await house.page.look(width, 400)
        await house.page.until("document.querySelector('.rows') !== null")
        await house.page.run("document.querySelector('#records .row').click()")
        assert await house.page.run("document.documentElement.scrollWidth") == width


async def test_a_reload_goes_on_where_the_page_was() -> None:
    """Nothing is repeated or missing, and a new tab starts over."""
    async with open_page() as house:
        for n in range(3):
            house.write(f"before {n}".encode())
        await shown(house.page, 3)
        await house.page.open("about:blank")
        house.write(b"meanwhile")
        await house.page.back()
        await shown(house.page, 1)
        house.write(b"after", partition=TWO)
        await shown(house.page, 2)
        assert await house.values() == ["after", "meanwhile"]
        await house.page.run("window.isOld = true")
        await house.page.send("Page.reload")
        await house.page.until("!window.isOld && document.querySelector('#badge')?.dataset.state === 'live'")
        house.write(b"last")
        await shown(house.page, 1)
        assert await house.values() == ["last"]


async def test_what_is_wrong_with_topics_and_the_group_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason and what to do, at the replica that says it; and no other replica is said to have partitions."""
    told = Told.status

    def status(self: Told) -> dict[str, Any]:
        wrong = {"health": "degraded", "reason": "missing", "detail": "create ordres, or correct topics: orders exists"}
        healthy = {"health": "healthy", "reason": None, "detail": None}
        return told(self) | {
            "partitions": [],
            "group": "dispatcher",
            "joined": True,
            "topic_health": {"ordres": wrong, "assets": healthy},
            "group_health": {"health": "degraded", "reason": "unauthorized", "detail": "<b>grant READ</b>"},
        }

    monkeypatch.setattr(Told, "status", status)
    async with open_page() as house:
        await house.page.until("document.querySelectorAll('.troubles li').length === 2")
        shown = await house.page.run("document.querySelector('#partitions').innerText")
        assert "ordres missing: create ordres, or correct topics: orders exists" in shown
        assert "group dispatcher unauthorized: <b>grant READ</b>" in shown
        assert "No partitions." in shown
        assert "other replicas" not in shown


async def test_the_badge_says_of_what_the_page_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the list of what happened, in the title, for people who hear the page, and where records would be."""
    told = Told.status

    def status(self: Told) -> dict[str, Any]:
        wrong = {"health": "degraded", "reason": "unauthorized", "detail": "topic assets may not be read: grant READ"}
        return told(self) | {"topic_health": {"assets": wrong}}

    monkeypatch.setattr(Told, "status", status)
    async with open_page() as house:
        house.hub.set_degraded({"assets": "unauthorized"})
        words = "nothing can arrive topic assets may not be read: grant READ"
        await house.page.until(f"document.querySelector('#badge').textContent === '{words}'")
        await house.page.until("document.querySelector('#empty').textContent.endsWith('grant READ')")
        await house.page.until(
            "document.querySelector('#said').textContent.startsWith('nothing can arrive: topic assets')"
        )
        assert await house.page.run("document.title") == "nothing can arrive · Dispatcher"
        first = "document.querySelector('#events li').innerText"
        await house.page.until(f"{first}.includes('nothing can arrive')")
        house.hub.set_degraded({})
        await house.page.until("document.querySelector('#badge').textContent.startsWith('live, 2 partitions ')")
        await house.page.until(f"{first}.includes('live, 2 partitions')")
        assert await house.page.run("document.title") == "Dispatcher"


async def test_what_happens_to_records_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers by topic, records that are settled or parked, and compression; what there is none of is left out."""
    told = Told.status

    def status(self: Told) -> dict[str, Any]:
        found = told(self)
        present = {"topics": {"assets": 1200, "<i>": 1}, "observers": 3, "filtered": 0, "acknowledging": 2}
        parked = {"ranges": 1, "offsets": 7, "first_offset": 3, "reasons": {}, "full": False}
        return found | {
            "subscribers": found["subscribers"] | present,
            "records": found["records"] | {"unmatched": {"assets": 4000, "orders": 5}},
            "partitions": [partition | {"parked": parked} for partition in found["partitions"]],
            "compression": {"input_bytes": 2_000_000, "output_bytes": 500_000},
        }

    async with open_page() as house:
        await house.page.until("document.querySelectorAll('#partitions tbody tr').length === 2")
        assert await house.page.run("document.querySelector('.facts') === null")
    monkeypatch.setattr(Told, "status", status)
    async with open_page() as house:
        await house.page.until("document.querySelectorAll('.facts dt').length === 5")
        assert await house.page.run(
            "[...document.querySelectorAll('.facts dt, .facts dd')].map((e) => e.textContent)"
        ) == [
            "subscribers",
            "assets 1,200, <i> 1",
            "of them",
            "3 only look, 2 acknowledge",
            "settled",
            "4,005 records that no subscriber wanted",
            "parked",
            "14 records wait in Kafka for a subscriber that may have them",
            "compressed",
            "2,000 kB to 25 %",
        ]


async def test_the_status_is_shown() -> None:
    """Partitions with their figures, which of them is paused, and subscribers by state."""
    async with open_page() as house:
        await house.page.until("document.querySelectorAll('#partitions tbody tr').length === 2")
        rows = await house.page.run("[...document.querySelectorAll('#partitions tbody tr')].map((e) => e.innerText)")
        assert [row.split() for row in rows] == [
            ["0", "12,345", "12,340", "5", "0"],
            ["1", "paused", "12,345", "12,340", "5", "0"],
        ]
        notes = await house.page.run("[...document.querySelectorAll('.tile .about')].map((e) => e.textContent)")
        assert notes[2:] == ["0 waiting for a subscriber, 1 paused", "3 live, 1 catching up"]


async def test_acknowledgements_and_dead_letters_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what threatens records that wait: retention, and a dead-letter topic that takes none."""
    told = Told.status

    def status(self: Told) -> dict[str, Any]:
        found = told(self)
        soon = {"oldest_waiting_seconds": 500, "retention_headroom_seconds": 1799.5}
        return found | {
            "partitions": [{**partition, **soon} for partition in found["partitions"]],
            "acks": {"subscribers": 3, "outstanding_records": 1234, "nacked": 2, "timeouts": 1},
            "dead_letters": {"written": 5, "waiting": 7, "failing": {"assets.dlq": "<b>unknown topic</b>"}},
        }

    monkeypatch.setattr(Told, "status", status)
    async with open_page() as house:
        await house.page.until("document.querySelectorAll('.troubles li').length === 2")
        shown = await house.page.run("document.querySelector('#partitions').innerText")
        assert "expires: Kafka deletes waiting records in 30 min" in shown
        assert "assets.dlq takes no dead letters, 7 wait: <b>unknown topic</b>" in shown
        assert "Acknowledgements: 3 subscribers, 1,234 records outstanding, 2 refused, 1 timeouts." in shown
        assert "Dead letters: 5 written, 7 waiting." in shown


async def test_rebalances_and_repeats_are_shown() -> None:
    """Both are in the list of what happened, and the badge follows the state."""
    async with open_page() as house:
        house.hub.unassigned([TWO])
        await house.page.until("document.querySelector('#events [data-kind=rebalance]') !== null")
        text = await house.page.run("document.querySelector('#events [data-kind=rebalance]').innerText")
        assert "1 revoked: replica has 1 now" in text
        (subscriber,) = house.hub._registry.everybody.values()
        for partition in (ONE, TWO):
            subscriber.resumption.repeats.note(partition, 3, 9)
        subscriber.leave_live()
        again = "document.querySelector('#events').innerText.includes('assets:0, 3 to 8 (and of 1 other partition)')"
        await house.page.until(again)


async def test_a_burst_of_states_is_shown_as_its_last_one() -> None:
    """Drawing 20,000 states one by one used to block the page for 10 s."""
    count = """window.changes = 0;
        const options = { subtree: true, attributeFilter: ["data-state"] };
        new MutationObserver((seen) => (changes += seen.length)).observe(document, options);"""
    with trio.fail_after(seconds(90)):
        async with servers() as addresses, open_profile() as browser:
            page = await browser.new_page()
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=count)
            await page.open(f"{addresses['burst_of_states']}/index.html")
            await page.until("document.querySelector('#badge')?.dataset.state === 'live'")
            assert 0 < await page.run("changes") < 10_000
            await page.until("document.querySelector('#replica').textContent.startsWith('case over')")


async def test_over_a_websocket_too() -> None:
    """The parameter ?transport=websocket in the page's address is passed on."""
    async with open_page("?observe=0&transport=websocket") as house:
        house.write(b"one")
        await shown(house.page, 1)
        assert await house.page.run("document.querySelector('#replica').textContent") == "replica over WebSocket"


async def test_decoded_records_have_the_name_of_their_schema() -> None:
    """Before the value; one that could not be decoded says so, and opens to the reason."""
    async with open_page() as house:
        notes = (
            b',"schema":{"id":4,"type":"AVRO","name":"shop.Order"}',
            b',"decode_error":"the registry has no schema 9"',
        )
        records = Records.of(Record(house.number + n, 1_700_000_000_000, None, b"\x00raw", ()) for n in range(2))
        decoded = Decoded([None] * 2, [b'{"n":17,"at":"2024-01-02T03:04:05.000Z"}', None], [b""] * 2, notes)
        house.hub.publish(Batch(ONE, records.with_decoded(decoded)))
        await shown(house.page, 2)
        undecoded, order = await house.values()
        assert order == 'shop.Order {"n":17,"at":"2024-01-02T03:04:05.000Z"}'
        assert undecoded.startswith("undecoded")
        await house.page.run("document.querySelector('#records .row').click()")
        assert "the registry has no schema 9" in await house.page.run("document.querySelector('.detail').innerText")
