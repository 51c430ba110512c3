"""Settings: where they come from, which are refused with which words, and what is never shown."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize, ValidationError

from dispatcher.command.configuration import load
from dispatcher.command.reference import reference
from dispatcher.command.with_settings import _shown_values
from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.kafka.properties import OWNED
from dispatcher.setting_kafka import HIDDEN, OWNED_KAFKA_PROPERTIES, is_secret
from dispatcher.setting_values import display, is_path
from dispatcher.settings import Settings

MIB = 1024 * 1024
SECRET = "hunter2"  # noqa: S105 - what must never be seen
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
PATHS = {name for name, field in Settings.model_fields.items() if is_path(field)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that no dispatcher.toml of somebody else counts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    toml: str = "",
) -> dict[str, SettingsProblem]:
    """What is reported about these settings, by key."""
    Path("dispatcher.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environment or {})
    found = {problem.key: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "each problem is reported once"
    return found


def remedy(**flags: object) -> str:
    """What is reported about the only wrong setting."""
    (problem,) = problems(flags).values()
    return problem.remedy


class TestSources:
    """Flag, environment, file, default."""

    def test_defaults_are_those_of_the_design(self) -> None:
        """Without any source, all is default and says so."""
        loaded = load({}, {})
        assert {"default"} == set(loaded.origins.values())
        settings = loaded.settings
        assert (
            settings.bootstrap_servers,
            settings.topics,
            settings.group_id,
        ) == ("127.0.0.1:9092", ("ofa_assets",), "dispatcher")
        assert (
            settings.history_bytes,
            settings.pause_above_bytes,
            settings.resume_below_bytes,
            settings.subscriber_buffer_bytes,
        ) == (64 * MIB, 32 * MIB, 16 * MIB, MIB)
        assert settings.client_id.startswith("dispatcher-")

    @pytest.mark.parametrize(
        ("sources", "expected", "origin"),
        [
            (("flag", "environment", "file"), "from-flag", "flag --group-id"),
            (("environment", "file"), "from-environment", "environment DISPATCHER_GROUP_ID"),
            (("file",), "from-file", "dispatcher.toml"),
            ((), "dispatcher", "default"),
        ],
    )
    def test_the_strongest_source_wins_and_is_named(self, sources: tuple[str, ...], expected: str, origin: str) -> None:
        """A flag is stronger than the environment, the environment than the file, the file than the default."""
        if "file" in sources:
            Path("dispatcher.toml").write_text('group_id = "from-file"')
        loaded = load(
            {"group_id": "from-flag"} if "flag" in sources else {},
            {"DISPATCHER_GROUP_ID": "from-environment"} if "environment" in sources else {},
        )
        assert expected == loaded.settings.group_id
        assert origin == loaded.origins["group_id"]

    def test_kafka_properties_merge_key_by_key(self) -> None:
        """Each source adds to the [kafka] table; the stronger wins a key that both have."""
        Path("dispatcher.toml").write_text(
            "[kafka]\nsession.timeout.ms = 6000\n'fetch.wait.max.ms' = 5\ncheck.crcs = true\n"
        )
        loaded = load(
            {"kafka": ("fetch.wait.max.ms=7",)},
            {"DISPATCHER_KAFKA__SESSION_TIMEOUT_MS": "9000", "DISPATCHER_KAFKA__LOG_LEVEL": "3"},
        )
        expected = {"session.timeout.ms": "9000", "fetch.wait.max.ms": "7", "check.crcs": True, "log_level": "3"}
        assert expected == loaded.settings.kafka
        assert loaded.origins["kafka.session.timeout.ms"] == "environment DISPATCHER_KAFKA__SESSION_TIMEOUT_MS"
        assert loaded.origins["kafka.fetch.wait.max.ms"] == "flag -X fetch.wait.max.ms"
        assert loaded.origins["kafka.check.crcs"] == "dispatcher.toml"

    def test_a_variable_may_name_a_file_with_the_value(self, folder: Path) -> None:
        """Any setting and any property, as orchestrators hand out secrets; the new line at the end is no part of it."""
        for name, text in {"group": "from-file\n", "password": f"{SECRET}\r\n", "size": "20 MiB"}.items():
            (folder / name).write_text(text)
        loaded = load(
            {},
            {
                "DISPATCHER_GROUP_ID_FILE": str(folder / "group"),
                "DISPATCHER_KAFKA__SASL_PASSWORD_FILE": str(folder / "password"),
                "DISPATCHER_HISTORY_BYTES_FILE": str(folder / "size"),
                "DISPATCHER_PAUSE_ABOVE_BYTES": "1 MiB",
                "DISPATCHER_RESUME_BELOW_BYTES": "1 MiB",
            },
        )
        assert (loaded.settings.group_id, loaded.settings.history_bytes) == ("from-file", 20 * MIB)
        assert loaded.settings.kafka == {"sasl.password": SECRET}
        assert loaded.origins["group_id"] == "environment DISPATCHER_GROUP_ID_FILE"
        assert loaded.origins["kafka.sasl.password"] == "environment DISPATCHER_KAFKA__SASL_PASSWORD_FILE"

    def test_properties_that_are_names_of_files_are_left_to_librdkafka(self) -> None:
        """Three of them end with .file themselves."""
        variable = "DISPATCHER_KAFKA__SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE"
        kafka = load({}, {variable: "/run/secrets/key"}).settings.kafka
        assert kafka == {"sasl.oauthbearer.assertion.private.key.file": "/run/secrets/key"}

    def test_a_file_by_name_takes_the_place_of_the_one_in_the_folder(self, folder: Path) -> None:
        """``--config`` names the only file that is read."""
        Path("dispatcher.toml").write_text('group_id = "folder"')
        other = folder / "other.toml"
        other.write_text('client_id = "other"')
        loaded = load({}, {}, other)
        assert (loaded.settings.group_id, loaded.settings.client_id) == ("dispatcher", "other")
        assert str(other) == loaded.origins["client_id"]

    def test_settings_for_flags_only_are_not_read_elsewhere(self) -> None:
        """The demo does not bring a production broker's password to its own broker."""
        Path("dispatcher.toml").write_text('group_id = "file"\n[kafka]\nsecurity.protocol = "ssl"\n')
        loaded = load(
            {"kafka": ("check.crcs=true",)},
            {"DISPATCHER_BOOTSTRAP_SERVERS": "kafka:1"},
            flags_only={"bootstrap_servers", "kafka"},
        )
        assert loaded.settings.kafka == {"check.crcs": "true"}
        assert (loaded.settings.bootstrap_servers, loaded.settings.group_id) == ("127.0.0.1:9092", "file")

    def test_other_programs_variables_are_left_alone(self) -> None:
        """Only DISPATCHER_* counts."""
        assert Settings() == load({}, {"GROUP_ID": "no", "KAFKA__X": "no"}).settings

    def test_making_settings_reads_nothing_behind_the_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The class itself looks at its arguments alone."""
        monkeypatch.setenv("DISPATCHER_GROUP_ID", "environment")
        assert Settings().group_id == "dispatcher"


class TestValues:
    """What a value may look like."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [("64 MiB", 64 * MIB), ("512KiB", 512 * 1024), ("1.5 KiB", 1536), ("1000", 1000), (1, 1), ("2 kB", 2000)],
    )
    def test_sizes_are_bytes_or_human(self, given: object, expected: int) -> None:
        """Plain numbers and units both work."""
        assert expected == load({"subscriber_buffer_bytes": given}, {}).settings.subscriber_buffer_bytes

    def test_every_buffer_may_have_size_1(self) -> None:
        """The least size is 1, in all of them together."""
        sizes = {name: "1" for name in Settings.model_fields if name.endswith("_bytes")}
        settings = load(sizes, {}).settings
        assert {1} == {getattr(settings, name) for name in sizes}

    @pytest.mark.parametrize(
        ("bind", "expected"),
        [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:0", ("::1", 0)), ("localhost:8000", ("localhost", 8000))],  # noqa: S104
    )
    def test_bind_takes_names_and_both_kinds_of_addresses(self, bind: str, expected: tuple[str, int]) -> None:
        """Host and port, IPv6 in brackets, port 0 for any."""
        assert expected == Settings(bind=bind).bind_address

    @pytest.mark.parametrize("bind", ["", "8000", ":8000", "host:", "host:x", "host:65536", "::1:80", "[]:80", "a b:1"])
    def test_bind_refuses_what_is_not_host_and_port(self, bind: str) -> None:
        """The reason shows how it is written."""
        assert "is not host:port, such as" in remedy(bind=bind)

    @pytest.mark.parametrize("servers", ["", "kafka", "a:1,", "a:1,,b:2", "http://a:1", "::1:9092", "a:0"])
    def test_brokers_are_hosts_with_ports(self, servers: str) -> None:
        """A list with a hole or without a port is refused before librdkafka guesses."""
        assert "such as" in remedy(bootstrap_servers=servers)

    def test_brokers_and_topics_may_be_spaced(self) -> None:
        """Space after a comma is for the reader."""
        settings = load({"bootstrap_servers": "a:1, [::1]:2", "topics": "x, y"}, {}).settings
        assert (settings.bootstrap_servers, settings.topics) == ("a:1,[::1]:2", ("x", "y"))

    @pytest.mark.parametrize("topics", ["", "^assets.*", "a,,b", ".", "..", "ä", "a" * 250, "a b"])
    def test_topics_are_legal_names(self, topics: str) -> None:
        """No pattern, no empty name, nothing that Kafka would refuse."""
        assert "is not a topic name" in remedy(topics=topics)

    @pytest.mark.parametrize(("topics", "reason"), [(["a", "a"], "once"), ([], "at least one"), ([1], "string")])
    def test_topics_are_a_list_of_different_names(self, topics: object, reason: str) -> None:
        """None twice, not none, names only."""
        assert reason in remedy(topics=topics)

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("history_bytes", "much", "a size such as 64 MiB"),
            ("history_bytes", "3 bananas", "a size such as 64 MiB"),
            ("write_bytes", "0", "greater than or equal to 1"),
            ("write_bytes", True, "true and false"),
            ("socket_unsent_bytes", "4 GiB", "less than or equal to"),
            ("commit_interval_seconds", "0", "greater than 0"),
            ("heartbeat_seconds", "nan", "finite"),
            ("stall_timeout_seconds", "inf", "finite"),
            ("shutdown_seconds", "1e9", "less than or equal to 86400"),
            ("drain_seconds", "-1", "greater than or equal to 0"),
            ("max_subscribers", "0", "greater than or equal to 1"),
            ("poll_records", "some", "integer"),
            ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
            ("group_id", "", "at least 1 character"),
        ],
    )
    def test_a_wrong_value_is_told_with_what_would_be_right(self, name: str, value: object, reason: str) -> None:
        """The remedy names the bound, the unit or the choices."""
        assert reason in remedy(**{name: value})

    @pytest.mark.parametrize(
        ("flags", "key", "expected"),
        [
            ({"history_bytes": "20 MiB"}, "pause_above_bytes (default)", "at most history_bytes (20 MiB)"),
            ({"resume_below_bytes": "33 MiB"}, "resume_below_bytes (--resume-below-bytes)", "at most pause_above"),
            ({"drain_seconds": "10"}, "drain_seconds (--drain-seconds)", "less than shutdown_seconds (10)"),
        ],
    )
    def test_settings_that_do_not_fit_together_are_refused(
        self, flags: dict[str, str], key: str, expected: str
    ) -> None:
        """Marks within the history, drain within the shutdown."""
        assert problems(flags)[key].remedy.startswith(expected)

    def test_origins_and_hosts_are_lists_in_one_spelling(self, folder: Path) -> None:
        """From every source; what is equal is there once, and nothing is the default."""
        origins = "HTTPS://App.Example.org:443, https://app.example.org, null, file://, *, http://[0::1]:3000"
        expected = ("https://app.example.org", "null", "file://", "*", "http://[::1]:3000")
        assert load({"allowed_origins": origins}, {}).settings.allowed_origins == expected
        assert load({}, {"DISPATCHER_ALLOWED_ORIGINS": origins}).settings.allowed_origins == expected
        (folder / "dispatcher.toml").write_text('allowed_origins = ["null"]\nallowed_hosts = ["A.example.", "[0::1]"]')
        settings = load({}, {}).settings
        assert (settings.allowed_origins, settings.allowed_hosts) == (("null",), ("a.example", "[::1]"))
        empty = load({"allowed_origins": "", "allowed_hosts": ""}, {}).settings
        assert empty.allowed_origins == empty.allowed_hosts == Settings().allowed_origins == ()

    @pytest.mark.parametrize(
        "origin",
        [
            *("https://app.example.org/", "app.example.org", "https://*.example.org", "https://a.example,", "Null"),
            *("ws://app.example.org", "https://user@app.example.org", "https://app.example.org:99999", "file:///x"),
        ],
    )
    def test_what_is_no_origin_is_refused(self, origin: str) -> None:
        """URLs with more than an origin, patterns, names alone."""
        assert "is not an origin: use https://host[:port] without a path" in remedy(allowed_origins=origin)

    @pytest.mark.parametrize(
        "host", ["https://stream.example.org", "stream.example.org:8000", "*.example.org", "a,,b", "::1", "a/b", "a b"]
    )
    def test_what_is_no_host_is_refused(self, host: str) -> None:
        """A name has no scheme, no port and no pattern."""
        assert "is not a host: use a name without scheme, port and path" in remedy(allowed_hosts=host)

    @pytest.mark.parametrize(
        ("bind", "is_loopback"),
        [
            *(("127.0.0.1:0", True), ("127.9.9.9:0", True), ("[::1]:0", True), ("localhost:0", True)),
            *(("0.0.0.0:0", False), ("[::]:0", False), ("10.0.0.7:0", False), ("replica-1:0", False)),
        ],
    )
    def test_whether_bind_is_loopback(self, bind: str, is_loopback: bool) -> None:
        """By its spelling alone: nothing is looked up."""
        assert Settings(bind=bind).is_bound_to_loopback == is_loopback

    def test_frozen(self) -> None:
        """Settings do not change once they are made."""
        with pytest.raises(ValidationError, match="frozen"):
            Settings().bind = "127.0.0.1:1"


class TestKafkaProperties:
    """The [kafka] table."""

    @pytest.mark.parametrize("name", list(OWNED_KAFKA_PROPERTIES))
    def test_what_the_dispatcher_owns_is_refused_with_the_reason(self, name: str) -> None:
        """By the name that the user wrote, from flags and from the environment."""
        variable = f"DISPATCHER_KAFKA__{name.upper().replace('.', '_')}"
        assert OWNED_KAFKA_PROPERTIES[name] in problems({"kafka": (f"{name}=1",)})[f"kafka.{name} (-X {name})"].remedy
        assert f"kafka.{name} ({variable})" in problems(environment={variable: "1"})

    def test_all_that_the_kafka_room_overrides_is_refused(self) -> None:
        """Otherwise a user's property would be dropped in silence."""
        assert set(OWNED) <= set(OWNED_KAFKA_PROPERTIES)

    @pytest.mark.parametrize("protocol", ["consumer", "CONSUMER"])
    @pytest.mark.parametrize("name", ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"])
    def test_classic_properties_do_not_go_with_the_new_protocol(self, name: str, protocol: str) -> None:
        """The consumer could not be made with them, so they are refused before anything starts (trap K10)."""
        found = problems({"kafka": (f"group.protocol={protocol}", f"{name}=x")})
        assert "KIP-848" in found[f"kafka.{name} (-X {name})"].remedy
        assert load({"kafka": ("group.protocol=classic", f"{name}=x")}, {}).settings.kafka[name] == "x"

    def test_a_value_that_is_no_scalar_is_refused(self) -> None:
        """A list has no meaning to librdkafka; the other keys are checked all the same."""
        found = problems(toml="[kafka]\ndebug = ['cgrp']\nenable.auto.commit = true\n")
        assert {"kafka.debug (dispatcher.toml)", "kafka.enable.auto.commit (dispatcher.toml)"} == set(found)

    @pytest.mark.parametrize("pair", ["novalue", "=x", ""])
    def test_a_flag_without_key_and_value_is_refused(self, pair: str) -> None:
        """As kcat has it: -X key=value."""
        assert "use KEY=VALUE" in problems({"kafka": (pair,)})["-X"].remedy


class TestProblems:
    """All of them at once, each where it stands."""

    def test_every_problem_of_every_source_is_told_at_once(self) -> None:
        """Wrong alone, wrong together, unknown, and misplaced: one run tells all."""
        found = problems(
            {"bind": "x", "drain_seconds": "11", "kafka": ("bad", "group.id=mine")},
            {"DISPATCHER_MAX_SUBSCRIBERS": "many", "DISPATCHER_HISTROY_BYTES": "1"},
            'heartbeat = 3\ntopics = []\n[kafka]\nclient.id = "x"\n',
        )
        assert set(found) == {
            "bind (--bind)",
            "drain_seconds (--drain-seconds)",
            "-X",
            "kafka.group.id (-X group.id)",
            "max_subscribers (DISPATCHER_MAX_SUBSCRIBERS)",
            "DISPATCHER_HISTROY_BYTES",
            "heartbeat (dispatcher.toml)",
            "topics (dispatcher.toml)",
            "kafka.client.id (dispatcher.toml)",
        }
        assert (
            found["bind (--bind)"].value,
            found["max_subscribers (DISPATCHER_MAX_SUBSCRIBERS)"].value,
            found["drain_seconds (--drain-seconds)"].value,
        ) == ("x", "many", "11")

    @pytest.mark.parametrize(
        ("path", "remedy"),
        [("./nowhere", "No such file or directory"), (".", "Is a directory"), ("./latin", "UTF-8 text")],
    )
    def test_a_file_with_a_value_that_cannot_be_read_is_told(self, folder: Path, path: str, remedy: str) -> None:
        """By the variable and the path, once, and of a property as well."""
        (folder / "latin").write_bytes(b"\xe4")
        variables = ("DISPATCHER_GROUP_ID_FILE", "DISPATCHER_KAFKA__CLIENT_RACK_FILE")
        found = problems(environment=dict.fromkeys(variables, path))
        assert set(found) == set(variables)
        for problem in found.values():
            assert problem.value == path
            assert remedy in problem.remedy

    def test_a_value_and_a_file_with_a_value_are_one_too_many(self, folder: Path) -> None:
        """Which of the two was meant, nobody can know."""
        (folder / "group").write_text("a")
        found = problems(environment={"DISPATCHER_GROUP_ID": "b", "DISPATCHER_GROUP_ID_FILE": "./group"})
        assert found["DISPATCHER_GROUP_ID_FILE"].remedy == "set either this or DISPATCHER_GROUP_ID, not both"

    def test_a_wrong_value_in_a_file_is_told_by_the_variable(self, folder: Path) -> None:
        """It is not shown: with a wrong path it is the content of another file, such as a key."""
        (folder / "size").write_text("much")
        found = problems(environment={"DISPATCHER_HISTORY_BYTES_FILE": "./size"})
        assert found["history_bytes (DISPATCHER_HISTORY_BYTES_FILE)"].value == HIDDEN
        assert "such as 64 MiB" in found["history_bytes (DISPATCHER_HISTORY_BYTES_FILE)"].remedy

    def test_a_password_in_the_place_of_a_path_is_not_shown(self) -> None:
        """A slip that happens."""
        found = problems(environment={"DISPATCHER_KAFKA__SASL_PASSWORD_FILE": SECRET})
        assert found["DISPATCHER_KAFKA__SASL_PASSWORD_FILE"].value == HIDDEN

    def test_a_file_for_no_setting_is_an_unknown_variable(self) -> None:
        """It is not read."""
        found = problems(environment={"DISPATCHER_HISTROY_BYTES_FILE": "/run/secrets/x"})
        assert "did you mean DISPATCHER_HISTORY_BYTES?" in found["DISPATCHER_HISTROY_BYTES_FILE"].remedy

    def test_a_wrong_value_does_not_make_others_look_wrong(self) -> None:
        """What is compared with a value that could not be read is not blamed."""
        found = problems({"history_bytes": "mcuh", "pause_above_bytes": "1 GiB", "resume_below_bytes": "1 GiB"})
        assert {"history_bytes (--history-bytes)"} == set(found)

    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("DISPATCHER_HISTROY_BYTES", "did you mean DISPATCHER_HISTORY_BYTES?"),
            ("DISPATCHER_KAFKA_DEBUG", "did you mean DISPATCHER_KAFKA__DEBUG?"),
            ("DISPATCHER_KAFKA", "did you mean DISPATCHER_KAFKA__"),
            ("DISPATCHER_QQQ", "`dispatcher config` lists them"),
        ],
    )
    def test_an_unknown_variable_gets_a_suggestion(self, name: str, suggestion: str) -> None:
        """A typing error in the environment is not ignored."""
        assert suggestion in problems(environment={name: "1"})[name].remedy

    def test_an_unknown_key_in_the_file_gets_a_suggestion(self) -> None:
        """Nor is one in the file."""
        found = problems(toml='history-bytes = 1\n[kakfa]\nsasl.password = "x"\n')
        assert found["history-bytes (dispatcher.toml)"].remedy.endswith("did you mean history_bytes?")
        assert found["kakfa (dispatcher.toml)"].remedy.endswith("did you mean kafka?")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"bind = ", "at end of document"), (b"[kafka\n", "line 1"), (b"\xff\xfe", "utf-8"), (b"kafka = 3", "table")],
    )
    def test_a_file_that_is_not_toml_is_told_with_the_place(self, folder: Path, content: bytes, reason: str) -> None:
        """And what the flags got wrong is reported beside it."""
        path = folder / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=reason) as caught:
            load({"bind": "x"}, {}, path)
        assert len(caught.value.problems) == 2

    def test_a_file_that_is_not_there_is_told_only_when_it_was_asked_for(self, folder: Path) -> None:
        """No dispatcher.toml is no problem; no ``--config`` file is one."""
        load({}, {})
        with pytest.raises(SettingsError, match="No such file"):
            load({}, {}, folder / "missing.toml")


class TestSecrets:
    """Never in output, errors, or a repr."""

    @pytest.mark.parametrize(
        "key",
        [
            "sasl.password",
            "SASL.PASSWORD",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.certificate.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
        ],
    )
    def test_properties_that_hold_secrets_are_known(self, key: str) -> None:
        """Passwords, passphrases, keys, and configurations that hold them."""
        assert is_secret(key)

    @pytest.mark.parametrize("key", ["sasl.username", "sasl.mechanism", "session.timeout.ms", "security.protocol"])
    def test_other_properties_are_shown(self, key: str) -> None:
        """What is not secret helps when it is seen."""
        assert not is_secret(key)

    def test_repr_hides_them(self) -> None:
        """Neither logs nor tracebacks show them."""
        settings = Settings(kafka={"sasl.password": SECRET, "sasl.username": "me"})
        assert SECRET not in f"{settings!r}{settings}"
        assert HIDDEN in repr(settings)
        assert "me" in repr(settings)

    def test_the_library_s_own_error_hides_them(self) -> None:
        """Also where somebody makes Settings by hand."""
        with pytest.raises(ValidationError) as caught:
            Settings(kafka={"sasl.password": [SECRET]})  # type: ignore[dict-item]
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("flags", "environment", "toml"),
        [
            ({"kafka": (f"sasl.password:{SECRET}",)}, {}, ""),
            ({"kafka": (f"sasl.password={SECRET}", "group.id=1")}, {}, ""),
            ({}, {"DISPATCHER_SASL_PASSWORD": SECRET}, ""),
            ({}, {"DISPATCHER_KAFKA_SASL_PASSWORD": SECRET}, ""),
            ({}, {}, f'sasl.password = "{SECRET}"'),
            ({}, {}, f'sasl_password = "{SECRET}"'),
            ({}, {}, f'[kakfa]\nsasl.password = "{SECRET}"'),
            ({}, {}, f'[kafka]\nsasl.password = ["{SECRET}"]'),
            ({}, {}, f'kafka = "sasl.password={SECRET}"'),
            ({}, {}, f'kafka.sasl.password = "{SECRET}'),
        ],
    )
    def test_errors_hide_them_wherever_they_were_put(
        self, flags: dict[str, Any], environment: dict[str, str], toml: str
    ) -> None:
        """In the right place, in a wrong one, misspelt, or in a broken file."""
        Path("dispatcher.toml").write_text(toml)
        with pytest.raises(SettingsError) as caught:
            load(flags, environment)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, "1"), (1000, "1000"), (1024, "1 KiB"), (1536, "1536"), (64 * MIB, "64 MiB"), (MIB + 1, "1048577")],
)
def test_a_size_is_shown_without_loss(size: int, expected: str) -> None:
    """A unit is used only if it is exact, so the output is valid input."""
    settings = Settings(write_bytes=ByteSize(size))
    assert expected == display(settings.write_bytes)
    assert settings == load({"write_bytes": expected, "client_id": settings.client_id}, {}).settings


def test_the_reference_is_current() -> None:
    """docs/settings.md matches the class; ``nox -s settings`` writes it."""
    assert reference() == (Path(__file__).parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ['rack "4"', "a\\b", "a\nb", ""])
def test_a_client_id_that_breaks_the_statistics_is_refused(name: str) -> None:
    """The client library writes it into its JSON unescaped."""
    with pytest.raises(ValidationError):
        Settings(client_id=name)


AUTH = {"auth_issuer": "https://login.example.org", "auth_audience": "dispatcher"}

WRONG_AUTH: dict[str, tuple[dict[str, Any], str, str]] = {
    "no issuer": ({"auth_audience": "a"}, "auth_audience", "set auth_issuer"),
    "no audience": ({"auth_issuer": "https://x"}, "auth_audience", "name the audience"),
    "issuer": (AUTH | {"auth_issuer": "login"}, "auth_issuer", "https://login.example.org"),
    "issuer with a query": (AUTH | {"auth_issuer": "https://x/?a"}, "auth_issuer", "https://login.example.org"),
    "issuer with a password": (
        AUTH | {"auth_issuer": "https://u:hunter2@x"},
        "auth_issuer",
        "leave out user and password",
    ),
    "port": (AUTH | {"auth_jwks_url": "https://x:99999"}, "auth_jwks_url", "https://login"),
    "algorithm": (AUTH | {"auth_algorithms": "RS256,none"}, "auth_algorithms", "'none' is not one of"),
    "HS without a secret": (AUTH | {"auth_algorithms": "HS256"}, "auth_algorithms", "auth_secret_file"),
    "RS with a secret": (
        AUTH | {"auth_algorithms": "RS256", "auth_secret_file": "/s"},
        "auth_algorithms",
        "for HS256, HS384 and HS512 alone",
    ),
    "two places": (
        AUTH | {"auth_jwks_url": "https://x", "auth_keys_file": "/k"},
        "auth_keys_file",
        "set either this or",
    ),
    "cookie": (AUTH | {"auth_cookie": "a b"}, "auth_cookie", "RFC 6265"),
    "refresh": (AUTH | {"auth_refresh_seconds": "0"}, "auth_refresh_seconds", "greater than 0"),
    "query": (AUTH | {"auth_query_parameter": "perhaps"}, "auth_query_parameter", "boolean"),
    "type": (AUTH | {"auth_types": "JWT,"}, "auth_types", "leave out empty"),
    "grants": (AUTH | {"auth_grants": "{"}, "auth_grants", "JSON"),
    "grants are a table": (AUTH | {"auth_grants": "{}"}, "auth_grants", "[[auth.grants]]"),
    "a grant is a text": (AUTH | {"auth_grants": '["a"]'}, "auth_grants[0]", "require and topics"),
    "member": (
        AUTH | {"auth_grants": '[{"require":{},"topics":["a"],"action":["admin"]}]'},
        "auth_grants[0].action",
        "no such member",
    ),
    "require": (AUTH | {"auth_grants": '[{"topics":["a"]}]'}, "auth_grants[0].require", "use claims"),
    "require a number": (
        AUTH | {"auth_grants": '[{"require":{"a":1},"topics":["a"]}]'},
        "auth_grants[0].require.a",
        "use claims",
    ),
    "topics": (AUTH | {"auth_grants": '[{"require":{}}]'}, "auth_grants[0].topics", "one final *"),
    "pattern": (
        AUTH | {"auth_grants": '[{"require":{},"topics":["a","b*c"]}]'},
        "auth_grants[0].topics",
        "one final *",
    ),
    "actions": (
        AUTH | {"auth_grants": '[{"require":{},"topics":["a"],"actions":["fly"]}]'},
        "auth_grants[0].actions",
        "subscribe",
    ),
    "filter": (
        AUTH | {"auth_grants": '[{"require":{},"topics":["a"],"filter":1}]'},
        "auth_grants[0].filter",
        "a table",
    ),
    "template": (
        AUTH | {"auth_grants": '[{"require":{},"topics":["a"],"filter":{"exact":{"key":"${sub}"}}}]'},
        "auth_grants[0].filter",
        "${claims.NAME}",
    ),
}


@pytest.mark.parametrize("name", WRONG_AUTH)
def test_a_wrong_setting_of_auth_is_reported(name: str) -> None:
    """The report has its key, down to the grant, and the remedy, with all other problems."""
    given, key, remedy = WRONG_AUTH[name]
    with pytest.raises(SettingsError) as raised:
        load(given | {"poll_records": "0"}, {})
    keys = [problem.key.partition(" ")[0] for problem in raised.value.problems]
    assert "poll_records" in keys
    assert key in keys
    assert remedy in raised.value.problems[keys.index(key)].remedy
    assert "hunter2" not in str(raised.value)


def test_auth_is_a_table_in_a_file(tmp_path: Path) -> None:
    """Grants and ``auth_`` names work in it; unknown keys are hidden, because they may be secrets."""
    path = tmp_path / "dispatcher.toml"
    table = """
        auth_types = ["JWT"]
        [auth]
        issuer = "https://login.example.org"
        audience = ["dispatcher", "other"]
        [[auth.grants]]
        require = { scope = "orders:read", groups = ["a", "b"] }
        topics = ["orders", "audit.*"]
        filter = { exact = { "header.tenant" = "${claims.tenant}" } }
        """
    path.write_text(table)
    settings = load({}, {}, path).settings
    assert settings.auth_audience == ("dispatcher", "other")
    assert settings.auth_types == ("JWT",)
    [rule] = settings.auth_grants
    assert rule.require == {"scope": ("orders:read",), "groups": ("a", "b")}
    assert rule.actions == ("subscribe", "observe")
    path.write_text(table.replace("issuer =", 'hmac = "hunter2"\n        issuer ='))
    with pytest.raises(SettingsError) as raised:
        load({}, {"DISPATCHER_AUTH_HMAC": "hunter2"}, path)
    assert [problem.key for problem in raised.value.problems] == [f"auth_hmac ({path})", "DISPATCHER_AUTH_HMAC"]
    assert "hunter2" not in str(raised.value)
    path.write_text("auth = 1")
    with pytest.raises(SettingsError, match=r"a table, \[auth\]"):
        load({}, {}, path)


def test_grants_go_through_the_environment_as_json() -> None:
    """`dispatcher config` shows them in the same form."""
    grants = '[{"require":{"scope":"r"},"topics":["a"],"actions":["observe"]}]'
    settings = load(
        {}, {"DISPATCHER_AUTH_ISSUER": "https://x", "DISPATCHER_AUTH_AUDIENCE": "a,b", "DISPATCHER_AUTH_GRANTS": grants}
    ).settings
    assert settings.auth_grants[0].actions == ("observe",)
    assert settings.auth_audience == ("a", "b")


class TestMistakesWithSecrets:
    """Whatever the mistake is, what may be a secret is not shown."""

    @pytest.mark.parametrize(
        ("flags", "environment", "toml"),
        [
            ({"kafka": (SECRET,)}, {}, ""),
            ({"bootstrap_servers": f"me:{SECRET}@kafka:9092"}, {}, ""),
            ({"bootstrap_servers": f"sasl://me:{SECRET}@kafka:9092"}, {}, ""),
            ({"bind": f"me:{SECRET}@host:1"}, {}, ""),
            ({"allowed_origins": f"https://me:{SECRET}@example.org/"}, {}, ""),
            ({"tls_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}", "bind": "x"}, {}, ""),
            ({}, {"DISPATCHER_PASWORD": SECRET}, ""),
            ({}, {"DISPATCHER_KAFKA_SASL_PASWORD": SECRET}, ""),
            ({}, {"DISPATCHER_TOKEN": SECRET}, ""),
            ({}, {"DISPATCHER_KAFKA__SASL_PASWORD_FILE": SECRET}, ""),
            ({}, {"DISPATCHER_GROUP_ID_FILE": f"{SECRET}/with/slashes=="}, ""),
            ({"admin_token_file": SECRET}, {}, ""),
            ({}, {"DISPATCHER_ADMIN_TOKEN_FILE": SECRET}, ""),
            ({"auth_secret_file": SECRET}, {}, ""),
            ({}, {"DISPATCHER_BIND_FILE": "./secret"}, ""),
            ({}, {"DISPATCHER_BOOTSTRAP_SERVERS_FILE": "./secret"}, ""),
            ({}, {"DISPATCHER_AUTH_ISSUER_FILE": "./secret"}, ""),
            ({}, {"DISPATCHER_ALLOWED_ORIGINS_FILE": "./secret"}, ""),
            ({}, {"DISPATCHER_KAFKA__SESSION_TIMEOUT_MS_FILE": "./secret", "DISPATCHER_BIND": "x"}, ""),
            ({}, {}, f'pasword = "{SECRET}"'),
            ({}, {}, f'[kafka]\n"sasl.pasword" = ["{SECRET}"]'),
            ({}, {}, f'kafka = "{SECRET}"'),
        ],
    )
    def test_nothing_of_it_is_echoed(
        self, flags: dict[str, Any], environment: dict[str, str], toml: str, folder: Path
    ) -> None:
        """Values of unknown keys, of what should be a path, and the user's part of addresses."""
        if toml:
            (folder / "dispatcher.toml").write_text(toml)
        (folder / "secret").write_text(SECRET)
        with pytest.raises(SettingsError) as caught:
            load(flags, environment)
        assert SECRET not in f"{caught.value}{[*caught.value.problems]}"

    @pytest.mark.parametrize("pem", [PEM, PEM.replace("\n", " "), f"first\n{SECRET}", f"a,{PEM}"])
    def test_the_content_of_a_file_is_shown_nowhere(self, folder: Path, pem: str) -> None:
        """Whichever setting gets it: neither in a refusal nor among the effective settings."""
        (folder / "content").write_text(pem)
        accepted = []
        for name in set(Settings.model_fields) - {"kafka"}:
            for flags, environment in (({name: pem}, {}), ({}, {f"DISPATCHER_{name.upper()}_FILE": "./content"})):
                try:
                    loaded = load(flags, environment)
                except SettingsError as error:
                    shown = f"{error}{error.problems}"
                else:
                    accepted.append(name)
                    shown = f"{loaded.settings!r}{dict(_shown_values(loaded))}"
                assert SECRET not in shown, name
        assert "group_id" in accepted

    @pytest.mark.parametrize("key", ["security.protocol", "debug", "plugin.library.paths", "client.rack"])
    def test_librdkafka_does_not_quote_the_content_of_a_file(self, key: str) -> None:
        """It would, in its reason, and sometimes in part."""
        from dispatcher.kafka.properties import check_properties

        settings = Settings(kafka={key: PEM})
        assert SECRET not in repr(settings)
        with suppress(SettingsError):
            check_properties(settings)
        with pytest.raises(SettingsError) as caught:
            check_properties(Settings(kafka={key: PEM, "session.timeout.ms": "x", "security.protocol": PEM}))
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("key", ["sasl.pasword", "sasl.passwort", "ssl.key.passwd", "client.secert"])
    def test_misspelled_properties_are_hidden(self, key: str) -> None:
        """In what is shown of the settings, too."""
        assert SECRET not in repr(Settings(kafka={key: SECRET}))

    def test_librdkafka_is_asked_which_properties_there_are(self) -> None:
        """Those it does not know are hidden whatever they are called."""
        from dispatcher.kafka.properties import check_properties, unknown_properties

        assert unknown_properties({"client.rack": "a", "no.such": "b", "session.timeout.ms": "x"}) == {"no.such"}
        with pytest.raises(SettingsError) as caught:
            check_properties(Settings(kafka={"sasl.zugang": SECRET}))
        assert SECRET not in str(caught.value)


class TestFiles:
    """What orchestrators write."""

    def test_the_file_of_a_path_is_the_path(self, folder: Path) -> None:
        """``TLS_KEY_FILE`` names the key; its content is no setting, and is never read here."""
        path = folder / "key.pem"
        path.write_text(SECRET)
        names = ("TLS_KEY", "TLS_CERTIFICATE", "KAFKA__SSL_KEY_LOCATION", "KAFKA__SSL_CA_LOCATION")
        loaded = load({}, {f"DISPATCHER_{name}_FILE": str(path) for name in names})
        assert loaded.settings.tls_key == loaded.settings.tls_certificate == str(path)
        assert loaded.settings.kafka == {"ssl.key.location": str(path), "ssl.ca.location": str(path)}
        assert loaded.origins["tls_key"] == "environment DISPATCHER_TLS_KEY_FILE"

    @pytest.mark.parametrize("name", sorted(PATHS))
    def test_each_setting_that_is_a_path_takes_it_from_its_file(self, folder: Path, name: str) -> None:
        """The file may hold whatever it likes, such as a key."""
        path = folder / "secret"
        path.write_bytes(b"\xff\x00")
        needed = {"schema_registry_url": "http://localhost:1", "auth_issuer": "http://localhost", "auth_audience": "a"}
        loaded = load(needed | {"operations_bind": "127.0.0.1:0"}, {f"DISPATCHER_{name.upper()}_FILE": str(path)})
        assert getattr(loaded.settings, name) == str(path)
        assert loaded.origins[name] == f"environment DISPATCHER_{name.upper()}_FILE"

    def test_no_setting_that_is_a_path_is_forgotten(self) -> None:
        """Its description says that it is a file."""
        fields = Settings.model_fields.items()
        described = re.compile("(PEM )?file with", re.IGNORECASE)
        assert {name for name, field in fields if described.match(str(field.description))} == PATHS

    @pytest.mark.parametrize(
        "name",
        [
            *("https.ca.location", "ssl.ca.location", "ssl.certificate.location", "ssl.crl.location"),
            *("ssl.engine.location", "ssl.key.location", "ssl.keystore.location", "sasl.kerberos.keytab"),
            "sasl.oauthbearer.assertion.private.key.file",
        ],
    )
    def test_each_property_that_is_a_path_takes_it_from_its_file(self, folder: Path, name: str) -> None:
        """A keytab, for one, is not text. Content in the place of a path is refused before librdkafka quotes it."""
        (folder / "keytab").write_bytes(b"\x05\x02\xff\x00")
        variable = f"DISPATCHER_KAFKA__{name.upper().replace('.', '_')}"
        assert load({}, {f"{variable}_FILE": "./keytab"}).settings.kafka == {name: "./keytab"}
        found = problems(environment={variable: PEM})[f"kafka.{name} ({variable})"]
        assert (found.value, found.remedy) == (HIDDEN, "use the path of the file, not its content")

    def test_a_byte_order_mark_is_no_part_of_it(self, folder: Path) -> None:
        """Editors on Windows write one, into values and into the settings file."""
        (folder / "group").write_bytes(b"\xef\xbb\xbfgroup\r\n")
        (folder / "dispatcher.toml").write_bytes(b'\xef\xbb\xbfbind = "127.0.0.1:1"\r\n')
        settings = load({}, {"DISPATCHER_GROUP_ID_FILE": str(folder / "group")}).settings
        assert (settings.group_id, settings.bind) == ("group", "127.0.0.1:1")

    def test_brokers_in_a_list(self, folder: Path) -> None:
        """As TOML has lists."""
        (folder / "dispatcher.toml").write_text('bootstrap_servers = ["a:1", "b:2"]')
        assert load({}, {}).settings.bootstrap_servers == "a:1,b:2"

    def test_the_variables_of_kubernetes_are_passed_over(self) -> None:
        """A Service named ``dispatcher`` gives them to every pod; the same names with other values are mistakes."""
        injected = {
            "DISPATCHER_SERVICE_HOST": "10.0.0.1",
            "DISPATCHER_SERVICE_PORT": "8000",
            "DISPATCHER_SERVICE_PORT_HTTP": "8000",
            "DISPATCHER_PORT": "tcp://10.0.0.1:8000",
            "DISPATCHER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "DISPATCHER_PORT_8000_TCP_PROTO": "tcp",
            "DISPATCHER_PORT_8000_TCP_PORT": "8000",
            "DISPATCHER_PORT_8000_TCP_ADDR": "10.0.0.1",
        }
        assert load({}, injected).settings == load({}, {}).settings
        for mistake in ({"DISPATCHER_PORT": "8000"}, {"DISPATCHER_SERVICE_NAME": "x"}):
            with pytest.raises(SettingsError):
                load({}, mistake)

    @pytest.mark.parametrize(
        ("name", "value", "remedy"),
        [
            ("trusted_proxies", "10.0.0.1/8", "host bits set"),
            ("trusted_proxies", "proxy", "is not a network"),
            ("operations_bind", "9000", "host:port"),
            ("operations_bind", "127.0.0.1:8000", "a different port"),
            ("max_connections", "1", "greater than or equal to 16"),
            ("admin_token_file", "/run/secrets/admin", "set operations_bind as well"),
            ("forwarded", "x-real-ip", "x-forwarded-for"),
        ],
    )
    def test_ports_proxies_and_limits_are_checked(self, name: str, value: str, remedy: str) -> None:
        """With what would be right."""
        with pytest.raises(SettingsError, match=remedy):
            load({name: value}, {})
        assert load({"trusted_proxies": "10.0.0.0/8, ::1"}, {}).settings.trusted_proxies == ("10.0.0.0/8", "::1/128")


class TestIdleLeave:
    """When replicas leave their group for lack of subscribers."""

    @pytest.mark.parametrize(
        ("flags", "seconds"),
        [
            ({}, 0),
            ({"default_scope": "topic"}, 30),
            ({"default_scope": "topic", "idle_leave_seconds": "0"}, 0),
            ({"default_scope": "topic", "group_instance_id": "one"}, 0),
            ({"idle_leave_seconds": "5"}, 5),
        ],
    )
    def test_the_default_follows_from_the_scope(self, flags: dict[str, str], seconds: float) -> None:
        """Any replica can own everything where streams have everything, unless its partitions would wait for it."""
        assert load(flags, {}).settings.idle_leave_seconds == seconds

    def test_a_static_member_must_not_leave(self) -> None:
        """Kafka keeps its partitions for it until its session ends."""
        found = problems({"idle_leave_seconds": "5", "group_instance_id": "one"})
        (key,) = found
        assert key.startswith("idle_leave_seconds")
        assert "static member" in found[key].remedy

    def test_a_wrong_scope_is_the_only_problem_of_settings_that_depend_on_it(self) -> None:
        """No default that could not be made is reported beside it."""
        (key,) = problems({"default_scope": "everything"})
        assert key.startswith("default_scope")


class TestWorkers:
    """More than one process needs two other settings."""

    @pytest.mark.parametrize("workers", ["2", "auto"])
    def test_more_than_one_worker_needs_scope_and_operations_bind(self, workers: str) -> None:
        """Both reasons are there at once; `auto` is refused on every machine, or on none."""
        found = problems({"workers": workers})
        assert {key.partition(" ")[0]: found[key].remedy.partition(":")[0] for key in found} == {
            "default_scope": "topic, with workers",
            "operations_bind": "an address, with workers",
        }
        needed = {"default_scope": "topic", "operations_bind": "127.0.0.1:0"}
        assert str(load({"workers": workers, **needed}, {}).settings.workers) == workers
        assert load({"workers": "1"}, {}).settings.workers == 1

    @pytest.mark.parametrize("workers", ["0", "257", "-1", "1.5", "many", "", "²"])
    def test_other_numbers_are_refused(self, workers: str) -> None:
        """With what would be right."""
        assert remedy(workers=workers) == "use a number from 1 to 256, or auto"

    def test_the_name_of_a_static_member_leaves_room_for_the_number(self) -> None:
        """Kafka allows 249 characters."""
        needed = {"workers": "2", "default_scope": "topic", "operations_bind": "127.0.0.1:0"}
        assert "at most 245 characters" in remedy(**needed, group_instance_id="a" * 246)
        assert load({**needed, "group_instance_id": "a" * 245}, {}).settings.workers == 2
