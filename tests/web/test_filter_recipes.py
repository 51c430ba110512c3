"""docs/filters.md as it is written: its recipes are run, and each row of its tables is a filter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import orjson
import trio

from dispatcher.sansio.filter_dialect import PARAMETERS, read_parameters
from dispatcher.sansio.records import Batch, Record
from testbed.tools import need
from tests.hub.test_hub import ONE
from tests.web.test_filters import KeyedHouse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "filters.md").read_text()
RECIPES = dict(re.findall(r"^<!-- recipe: (\S+) -->\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CLIENT = ROOT / "dispatcher" / "web" / "page"

STATES = ("open", "closed", "new", "lost")


def test_each_row_of_the_table_is_a_filter() -> None:
    """Each recipe is read as a filter, except where none exists."""
    rows = re.search(r"^## I want.*?\n\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert rows is not None
    queries = re.findall(r"`\?([^`]+)`", rows[1])
    assert len(queries) > 20
    for query in queries:
        arguments = parse_qs(query, strict_parsing=True, separator="&")
        assert read_parameters(arguments) is not None, query
        assert set(arguments) - set(PARAMETERS) <= {"topic", "since", "observe"}, query


async def test_the_recipes_are_sent_what_they_ask_for(tmp_path: Path) -> None:
    """curl, tail, Python and JavaScript get the matching records only."""
    assert sorted(RECIPES) == ["filtered-tail.sh", "filtered.mjs", "filtered.py", "filtered.sh"]
    package = tmp_path / "node_modules" / "kafka-dispatcher"
    package.mkdir(parents=True)
    for name in ("package.json", "client.js"):
        shutil.copy(CLIENT / name, package)
    programs = {".sh": need("bash"), ".py": sys.executable, ".mjs": need("node")}
    need("curl")
    house = KeyedHouse("plain")
    async with house.serving(90), trio.open_nursery() as nursery:
        host, port = house.server.addresses[0]
        environment = os.environ | {
            "URL": f"http://{host}:{port}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

        async def run(name: str) -> None:
            path = tmp_path / name
            path.write_text(RECIPES[name])
            command = [programs[path.suffix], str(path)]
            async with await trio.open_file(tmp_path / f"{name}.log", "wb") as log:
                process = await trio.lowlevel.open_process(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=log.wrapped,
                    env=environment,
                    cwd=tmp_path,
                    start_new_session=True,
                )
                try:
                    assert process.stdout is not None
                    printed = b""
                    while b'"n":"last"' not in printed:
                        some = await process.stdout.receive_some()
                        assert some, (name, printed, (tmp_path / f"{name}.log").read_text())
                        printed += some
                finally:
                    os.killpg(process.pid, 9)
                    with trio.CancelScope(shield=True), trio.move_on_after(10):
                        await process.wait()
            values = [orjson.loads(one) for one in re.findall(rb'\{"n":[^}]*\}', printed)]
            closed = {"closed"} if name == "filtered.sh" else {"closed", "lost"}
            wanted = [n for n, state in enumerate(STATES) if state not in closed]
            assert [value["n"] for value in values] == [*wanted, "last"], (name, printed)

        for name in RECIPES:
            nursery.start_soon(run, name)
        await house.live(len(RECIPES))
        values = [{"n": n, "state": state} for n, state in enumerate(STATES)] + [{"n": "last", "state": "open"}]
        keyed = [("order-17", value) for value in values[:-1]]
        keyed += [("other", {"n": "no", "state": "open"}), ("order-17", values[-1])]
        records = [Record(n, None, key.encode(), orjson.dumps(value), ()) for n, (key, value) in enumerate(keyed)]
        house.replays.log.extend((ONE, record) for record in records)
        house.hub.publish(Batch(ONE, records, covers_from=0))
