"""The contracts (OpenAPI, AsyncAPI, JSON Schema) name what the service really sends, and nothing that it lacks."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx2
import orjson
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from wsproto.events import TextMessage

from dispatcher import __version__
from dispatcher.client import Gap
from dispatcher.sansio.encoding import messages
from dispatcher.sansio.records import Batch, Record
from dispatcher.sansio.topic_health import Reason
from dispatcher.web.admin import Admin
from dispatcher.web.admin_streams import OwnStreams
from dispatcher.web.app import create_app, create_operations_app
from dispatcher.web.operations import Operations
from dispatcher.web.page import FILES as PAGE_FILES
from testbed.clients import Event, open_sse
from testbed.contracts import PACKAGE, ROOT, copies, read
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.hub.test_hub import ONE
from tests.web.test_admin import BEARER, SECRET, Administered
from tests.web.test_transports import WsStream

MESSAGES = read("messages.schema.json")
OPENAPI = read("openapi.yaml")
ASYNCAPI = read("asyncapi.yaml")
METHODS = ("get", "post", "delete", "put", "patch")
UNDESCRIBED = {*PAGE_FILES, "/ws"}
"""The page's own files, and what AsyncAPI describes."""


def validator(name: str) -> Draft202012Validator:
    """Of one definition of the messages' schema."""
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": MESSAGES["$defs"]})


def check(name: str, message: Any) -> None:
    """A message is as its schema says, and the schema names every member."""
    errors = [error.message for error in validator(name).iter_errors(message)]
    assert not errors, (message, errors)
    assert set(message) <= members(name), (name, message)


def members(name: str) -> set[str]:
    """Every member that a definition names."""
    definition = MESSAGES["$defs"][name]
    named = set(definition.get("properties", {}))
    for part in definition.get("allOf", ()):
        if "$ref" in part:
            named |= members(part["$ref"].rpartition("/")[2])
    return named


def test_the_package_serves_what_docs_say() -> None:
    """The copies are current and of this version, and the JSON Schema is valid."""
    for name, text in copies().items():
        assert (PACKAGE / name).read_text(encoding="utf-8") == text, "python -m testbed.contracts --write"
    assert (OPENAPI["openapi"], OPENAPI["info"]["version"]) == ("3.2.0", __version__)
    assert (ASYNCAPI["asyncapi"], ASYNCAPI["info"]["version"]) == ("3.0.0", __version__)
    Draft202012Validator.check_schema(MESSAGES)
    for schema in OPENAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def references(value: Any) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("document", [OPENAPI, ASYNCAPI, MESSAGES], ids=["openapi", "asyncapi", "messages"])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """It leads within the document, or into the messages' schema beside it."""
    found = set(references(document))
    assert found
    for reference in found:
        place, _, pointer = reference.partition("#")
        assert place in {"", "messages.schema.json"}
        target: Any = MESSAGES if place else document
        for part in pointer.strip("/").split("/"):
            target = target[part]


def test_every_route_is_described(tmp_path: Path) -> None:
    """Both ports' routes and methods are, and everything described is served."""
    house = Administered(tmp_path)
    operations = cast("Operations", None)
    admin = Admin(OwnStreams(house.visits, house.drain), house.access)
    apps = (
        create_app(house.hub, house.settings.model_copy(update={"operations_bind": ""}), operations),
        create_operations_app(house.settings, operations, admin),
    )
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).replace("{number}", "{id}"), method.lower())
        for app in apps
        for rule in app.url_map.iter_rules()
        for method in rule.methods or {"GET"}
        if method not in {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, item in OPENAPI["paths"].items() for method in METHODS if method in item}
    assert {one for one in served if one[0] not in UNDESCRIBED} == described
    assert ASYNCAPI["channels"]["stream"]["address"] == "/ws"


def test_what_the_encoders_write_is_as_the_schema_says() -> None:
    """Records with every kind of key and value, gaps, goodbyes and notices are valid."""
    texts: tuple[bytes | None, ...] = (None, b"", "ü".encode(), b"\xff")
    records = tuple(
        Record(number, None if number == 0 else 17 + number, key, value, (("h", header),))
        for number, (key, value, header) in enumerate((a, b, a) for a in texts for b in texts)
    )
    columns = messages.record_columns(Batch(ONE, records), None)
    for number, record in enumerate(records):
        whole = b"".join(part if isinstance(part, bytes) else part[number] for part in columns)
        envelope = orjson.loads(whole)
        check("Envelope", envelope)
        assert envelope["offset"] == record.offset
    written = {
        "GapMessage": messages.encode_gap("assets", 0, 5, 9, "expired"),
        "GoodbyeMessage": messages.encode_goodbye(4429, "too many", 60_000),
        "Expiring": messages.encode_expiring(30),
        "Nacked": messages.encode_nacked("assets:0=1", dead_letter=False),
        "Heartbeat": messages.encode_heartbeat("assets:~AQ;orders:0=-1,1=2"),
        "Records": messages.join_records([orjson.dumps(envelope)], "a:0=0"),
    }
    for name, data in written.items():
        check(name, orjson.loads(data))
    check("Heartbeat", orjson.loads(messages.encode_heartbeat("")))


async def next_text(ws: WsStream) -> str:
    """The next message of a WebSocket."""
    text = ""
    while True:
        event = await ws.next_event()
        if isinstance(event, TextMessage):
            text += event.data
            if event.message_finished:
                return text


async def test_what_streams_are_sent_is_as_the_schema_says(tmp_path: Path) -> None:
    """States, records and a goodbye over SSE and WebSocket are valid."""
    house = Administered(tmp_path)
    async with (
        house.serving(60),
        house.stream("?format=envelope&_=1") as sse,
        house.stream("?key=k&scope=replica") as filtered,
        house.ws() as ws,
    ):
        await house.live(3)
        house.hub.set_degraded({ONE.topic: Reason.LEADERLESS})
        house.publish(ONE)
        kinds: set[str] = set()
        events: list[Event] = []
        while "message" not in kinds:
            event = await sse.next_event()
            assert event is not None
            events.append(event)
            kinds.add(event.type)
        assert (await house.ask("POST", "disconnect?all=1")).json() == {"disconnected": 3}
        while (event := await sse.next_event()) is not None:
            events.append(event)
        first = await filtered.next_event()
        assert first is not None
        events.append(first)
        names = {"message": "Envelope", "state": "State", "goodbye": "Goodbye"}
        for event in events:
            check(names[event.type], orjson.loads(event.data))
        assert {event.type for event in events} == set(names)
        states = [orjson.loads(event.data) for event in events if event.type == "state"]
        assert any("degraded" in state for state in states)
        assert any("ignored" in state for state in states)
        assert any("filter" in state for state in states)
        types = set()
        while "goodbye" not in types:
            message = orjson.loads(await next_text(ws))
            assert Draft202012Validator(MESSAGES).is_valid(message), message
            types.add(message["type"])
        assert types >= {"state", "records", "goodbye"}


def test_the_clients_types_name_the_same_members() -> None:
    """TypeScript's and Python's do, although Python spells some differently."""
    types = (ROOT / "dispatcher/web/page/client.d.ts").read_text()

    def interface(name: str) -> set[str]:
        body = re.search(rf"export interface {name} {{\n(.*?)\n}}", types, re.DOTALL)
        assert body is not None
        return set(re.findall(r"^  readonly (\w+)\??:", body[1], re.MULTILINE))

    assert interface("KafkaRecord") == members("Envelope") | {"id"}
    assert interface("Gap") == members("Gap")
    python = {field.name.removesuffix("_offset") for field in dataclasses.fields(Gap)}
    assert python == members("Gap")
    names = re.search(r"export type StateName =(.*?);", types, re.DOTALL)
    assert names is not None
    streamed = set(MESSAGES["$defs"]["State"]["properties"]["state"]["enum"]) - {"streaming"}
    assert streamed <= set(re.findall(r'"([a-z-]+)"', names[1]))


def answered(answer: httpx2.Response, path: str, method: str) -> None:
    """An answer is one that the contract names, with its type and what it holds."""
    responses: Mapping[str, Any] = OPENAPI["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, (method, path, answer.status_code, answer.text)
    response = responses[str(answer.status_code)]
    if "$ref" in response:
        response = OPENAPI["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response.get("content", {})
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    assert (kind in content) if content else not answer.content, (path, kind)
    if kind.endswith("json"):
        registry: Registry[Any] = Registry().with_resources(
            (name, DRAFT202012.create_resource(document))
            for name, document in {"openapi.json": OPENAPI, "messages.schema.json": MESSAGES}.items()
        )
        schema = content[kind].get("schema")
        rooted = orjson.loads(orjson.dumps(schema).replace(b'"#/', b'"openapi.json#/'))
        errors = [error.message for error in Draft202012Validator(rooted, registry=registry).iter_errors(answer.json())]
        assert not errors, (path, errors)


QUERIES: Mapping[str, tuple[str, ...]] = {
    "/admin/subscribers": (
        "",
        "?limit=1",
        "?limit=0",
        "?limit=x",
        "?state=dead",
        "?topic=a&topic=b",
        "?after=-1",
        "?x=1",
    ),
    "/admin/subscribers/{id}": ("", "?reconnect=2", "?reconnect=0"),
    "/admin/disconnect": ("", "?all=1", "?all=1&topic=a", "?subject=%00", "?address=::1&reconnect=0"),
    "/admin/drain": ("?seconds=0", "?seconds=-1", "?stop=maybe", ""),
    "/events": (
        "?format=xml",
        "?topic=unknown",
        "?since=never",
        "?last=0",
        "?observe=2",
        "?last_event_id=x",
        "?filter={",
    ),
}
HEADERS: Mapping[str, Mapping[str, str]] = {
    "an administrator": BEARER,
    "nobody": {},
    "somebody else": {"Authorization": f"Bearer {SECRET}x"},
    "a page elsewhere": {**BEARER, "Origin": "https://evil.example"},
    "a rebound name": {**BEARER, "Host": "evil.example"},
}


async def test_the_running_service_answers_as_the_contract_says(
    replicas: Callable[..., Replica], tmp_path: Path
) -> None:
    """Each operation is called on its port, with right and wrong queries and callers."""
    (tmp_path / "token").write_text(SECRET)
    settings = {"operations_bind": "127.0.0.1:0", "admin_token_file": tmp_path / "token"}
    replica = replicas("127.0.0.1:9", "assets", settings=settings)
    seen = set()
    async with httpx2.AsyncClient(timeout=seconds(20)) as client, open_sse(replica) as stream:
        assert await stream.next_event() is not None
        for path, item in OPENAPI["paths"].items():
            for method in (method for method in METHODS if method in item):
                for base in (replica.url, replica.operations_url):
                    if (path == "/events") is not (base == replica.url) and path not in {"/livez", "/readyz"}:
                        continue
                    for query in QUERIES.get(path, ("",)):
                        for headers in HEADERS.values():
                            url = base + path.replace("{id}", "77") + query
                            answer = await client.request(method.upper(), url, headers=headers)
                            answered(answer, path, method)
                            seen.add((path, method, answer.status_code))
        for path, name in (("/openapi.json", "openapi.json"), ("/messages.schema.json", "messages.schema.json")):
            answer = await client.get(replica.url + path, headers={"Origin": "https://elsewhere.example"})
            assert answer.json() == orjson.loads((PACKAGE / name).read_bytes())
            again = await client.get(replica.url + path, headers={"If-None-Match": answer.headers["ETag"]})
            answered(again, path, "get")
    statuses = {status for path, _, status in seen if path.startswith("/admin")}
    assert statuses == {200, 202, 400, 401, 403, 404, 421}
