"""Settings of single topics and of the schema registry: their sources, what is refused, and what is never shown."""

from pathlib import Path

import pytest

from dispatcher.command.configuration import load
from dispatcher.errors import SettingsError
from dispatcher.settings import Settings
from dispatcher.topic_settings import DEFAULT_TABLE, TopicTable

LATE = 'topics = "a"\ntopic_tables.a = {undelivered_deadline_seconds = 5, on_deadline = "dead-letter"}\n'
REGISTRY = 'schema_registry_url = "http://127.0.0.1:8081"\n'
SECRET = "hunter2"  # noqa: S105 - what must never be seen


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(toml: str, **environment: str) -> dict[str, str]:
    """What is refused, by key, with its remedy."""
    Path("dispatcher.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load({}, environment)
    assert SECRET not in str(caught.value)
    return {problem.key.partition(" ")[0]: problem.remedy for problem in caught.value.problems}


def test_tables_in_a_file_name_the_topics() -> None:
    """``[topics.NAME]`` stands for ``topics`` and for each topic's settings, in the file's order."""
    Path("dispatcher.toml").write_text(REGISTRY + '[topics.orders]\ndecode = "json"\n[topics."audit.log"]\n')
    loaded = load({}, {})
    assert loaded.settings.topics == ("orders", "audit.log")
    assert loaded.settings.table("orders") == TopicTable(decode="json")
    assert loaded.settings.table("audit.log") == loaded.settings.table("other") == DEFAULT_TABLE
    assert loaded.origins["topic_tables"] == loaded.origins["topics"] == "dispatcher.toml"


def test_topics_of_a_stronger_source_choose_among_the_tables() -> None:
    """A flag can serve fewer topics, and topics without a table get defaults."""
    Path("dispatcher.toml").write_text(REGISTRY + '[topics.orders]\ndecode = "json"\n[topics.audit]\n')
    settings = load({"topics": "orders,more"}, {}).settings
    assert settings.topics == ("orders", "more")
    assert set(settings.topic_tables) == {"orders"}


def test_the_environment_has_tables_as_json() -> None:
    """Registry secrets can be files, like every setting."""
    Path("secret").write_text(f"{SECRET}\n")
    settings = load(
        {},
        {
            "DISPATCHER_TOPICS": "orders",
            "DISPATCHER_TOPIC_TABLES": '{"orders": {"decode": "json", "int64": "string"}}',
            "DISPATCHER_SCHEMA_REGISTRY_URL": "https://registry.example.org/",
            "DISPATCHER_SCHEMA_REGISTRY_USER": "reader",
            "DISPATCHER_SCHEMA_REGISTRY_PASSWORD_FILE": "secret",
        },
    ).settings
    assert settings.table("orders") == TopicTable(decode="json", int64="string")
    assert (settings.schema_registry_url, settings.schema_registry_password) == ("https://registry.example.org", SECRET)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("toml", "key", "remedy"),
    [
        (REGISTRY + '[topics.orders]\ndecode = "xml"', "topic_tables[orders].decode", "'none', 'json' or 'avro-json'"),
        (REGISTRY + "[topics.orders]\nedcode = 1", "topic_tables[orders].edcode", "no such setting of a topic; use"),
        ('[topics.orders]\ndecode = "json"', "topic_tables[orders].decode", "set schema_registry_url as well"),
        ('[topics]\norders = "json"', "topic_tables[orders]", "use a table, [topics.orders]"),
        ('topic_tables = "{"', "topic_tables", "is not JSON"),
        ('topic_tables = "[]"', "topic_tables", "use tables by topic"),
        ('topics = "a"\ntopic_tables = {b = {}}', "topic_tables[b]", "name the topic in topics as well"),
        (
            'topics = "a"\ntopic_tables.a = {on_deadline = "skip"}',
            "topic_tables[a].on_deadline",
            "set undelivered_deadline_seconds as well",
        ),
        ('dead_letter_topic = "a b"', "dead_letter_topic", "is not a topic name"),
        (f'{LATE}dead_letter_topic = "a"', "dead_letter_topic", "name a topic other than a itself"),
        (f'{LATE}dead_letter_topic = ""', "dead_letter_topic", "name a topic other than a itself"),
        (f"{LATE}idle_leave_seconds = 5", "idle_leave_seconds", "use 0 with undelivered_deadline_seconds"),
        (f'schema_registry_token = "{SECRET}"', "schema_registry_token", "set schema_registry_url as well"),
        (f'{REGISTRY}schema_registry_password = "{SECRET}"', "schema_registry_password", "schema_registry_user"),
        (
            f'{REGISTRY}schema_registry_user = "a"\nschema_registry_token = "{SECRET}"',
            "schema_registry_token",
            "set either this or schema_registry_user, not both",
        ),
        (f'schema_registry_url = "http://me:{SECRET}@x"', "schema_registry_url", "leave out user and password"),
        ('schema_registry_url = "registry:8081"', "schema_registry_url", "is not the URL of a registry"),
        ('schema_registry_url = "http://[::1"', "schema_registry_url", "is not a URL"),
        ('schema_registry_url = "http://x/?a=1"', "schema_registry_url", "is not the URL of a registry"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(toml: str, key: str, remedy: str) -> None:
    """Each problem is listed at its place, without values that may be secret."""
    found = problems(toml)
    assert [key] == list(found)
    assert remedy in found[key]


def test_tables_are_made_from_keyword_arguments_too() -> None:
    """Tests and other Python code use them."""
    settings = Settings(
        topics=("orders",),
        topic_tables={"orders": TopicTable(decode="json")},
        schema_registry_url="http://127.0.0.1:1",
    )
    assert settings.table("orders").decode == "json"


def test_encodings_are_those_that_are_set() -> None:
    """Otherwise the bytes decide, and nothing is looked up for the topic."""
    Path("dispatcher.toml").write_text(
        '[topics.a]\nencoding = "base64"\n[topics.b]\nkey_encoding = "text"\n[topics.c]\n'
    )
    settings = load({}, {}).settings
    assert settings.encodings == {"a": ("auto", "base64"), "b": ("text", "auto")}
