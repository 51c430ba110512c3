"""The command line: options, output, and exit codes."""

import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import orjson
import pytest
import structlog
import trio
from click.testing import CliRunner, Result

from dispatcher import supervisor
from dispatcher.command import main as cli
from dispatcher.command.configuration import load
from dispatcher.command.reference import reference
from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.settings import Settings

SECRET = "hunter2"  # noqa: S105 - what must never be seen


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that no dispatcher.toml of somebody else counts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli.main, arguments, env=environment)


def loaded(command: str) -> click.Command:
    """A command of it."""
    found = cli.main.get_command(click.Context(cli.main), command)
    assert found is not None
    return found


@pytest.fixture
def no_logging_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging set up by a command would outlive its test."""
    monkeypatch.setattr("dispatcher.telemetry.logs.configure_logging", lambda *_: None)


class TestConfig:
    """``dispatcher config``."""

    def test_the_table_says_what_is_set_and_from_where(self) -> None:
        """One line a setting, whole in a pipe, with its value as people write it."""
        Path("dispatcher.toml").write_text("heartbeat_seconds = 5\n[kafka]\ncheck.crcs = true\n")
        brokers = ",".join(f"kafka-{number}.example.org:9092" for number in range(9))
        result = run("config", "--history-bytes", "128MiB", environment={"DISPATCHER_BOOTSTRAP_SERVERS": brokers})
        assert result.exit_code == 0
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in result.stdout.splitlines()}
        assert rows["history_bytes"] == "128 MiB flag --history-bytes"
        assert f"{brokers} environment DISPATCHER_BOOTSTRAP_SERVERS" == rows["bootstrap_servers"]
        assert rows["heartbeat_seconds"] == "5 dispatcher.toml"
        assert rows["kafka.check.crcs"] == "true dispatcher.toml"
        assert rows["bind"] == "127.0.0.1:8000 default"
        assert set(rows) - {"setting", "kafka.check.crcs"} == set(Settings.model_fields) - {"kafka"}

    def test_toml_output_is_a_file_that_means_the_same(self, folder: Path) -> None:
        """What it prints can be given as ``--config``."""
        arguments = ("--topic", "a", "--topic", "b,c", "--write-bytes", "1000", "-X", "session.timeout.ms=9000")
        path = folder / "printed.toml"
        path.write_text(run("config", "--format", "toml", *arguments).stdout)
        loaded = load({}, {}, path)
        assert (loaded.settings.topics, loaded.settings.write_bytes) == (("a", "b", "c"), 1000)
        assert loaded.settings.kafka == {"session.timeout.ms": "9000"}

    def test_json_output_is_for_machines(self) -> None:
        """Plain values, each with its origin."""
        shown = orjson.loads(run("config", "--format", "json", "--write-bytes", "1KiB").stdout)
        assert shown["write_bytes"] == {"value": 1024, "origin": "flag --write-bytes"}
        assert shown["topics"] == {"value": ["ofa_assets"], "origin": "default"}

    @pytest.mark.parametrize("form", ["table", "toml", "json"])
    def test_secrets_are_hidden_in_every_format(self, form: str) -> None:
        """The key and where it came from are shown, the value is not."""
        environment = {"DISPATCHER_KAFKA__SASL_PASSWORD": SECRET}
        result = run("config", "--format", form, "-X", f"ssl.key.pem={SECRET}", environment=environment)
        assert result.exit_code == 0
        assert SECRET not in result.output
        assert result.stdout.count("********") == 2
        assert "DISPATCHER_KAFKA__SASL_PASSWORD" in result.stdout

    def test_a_hidden_secret_is_no_value_in_toml(self) -> None:
        """Asterisks in a file would go to the broker as a password."""
        printed = run("config", "--format", "toml", "-X", f"sasl.password={SECRET}").stdout
        assert "kafka" not in tomllib.loads(printed)

    def test_reference_prints_the_page_of_the_documentation(self) -> None:
        """The Markdown of docs/settings.md, and nothing else."""
        assert reference() == run("config", "--reference").stdout

    def test_it_does_without_the_server(self) -> None:
        """What only reads settings does not wait for Quart, Hypercorn and librdkafka to load."""
        code = (
            "import sys; from dispatcher.command.main import main\n"
            "main(['config', '--reference'], standalone_mode=False)\n"
            "sys.exit(bool({'trio', 'quart', 'hypercorn', 'confluent_kafka'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


class TestLoading:
    """Each command loads what it needs."""

    @pytest.mark.parametrize("command", ["tail", "status", "subscribers"])
    def test_commands_of_clients_do_without_the_settings(self, command: str) -> None:
        """They start in a fraction of the time."""
        code = (
            "import sys; from dispatcher.command.main import main\n"
            f"main(['{command}', '--help'], standalone_mode=False)\n"
            "sys.exit(bool({'pydantic', 'structlog', 'dispatcher.settings'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0

    def test_the_collector_looks_at_nothing_that_was_loaded(self) -> None:
        """Modules live as long as the process; what is made later is collected as ever."""
        code = (
            "import gc, sys; from dispatcher.command.main import main\n"
            "main(['serve', '--help'], standalone_mode=False)\n"
            "sys.exit(not (gc.isenabled() and gc.get_freeze_count() > 10_000))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0

    def test_help_names_every_command(self) -> None:
        """Also those that are not loaded yet."""
        code = "from dispatcher.command.main import main; main(['--help'])"
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        names = [line.split()[0] for line in printed.partition("Commands:\n")[2].splitlines()]
        assert names == ["config", "demo", "redrive", "serve", "status", "subscribers", "tail"]

    def test_a_misspelt_command_is_compared_with_all(self) -> None:
        """The message names the one that was meant, whichever is loaded."""
        code = "from dispatcher.command.main import main; main(['tial'])"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert "'tail'" in done.stderr


class TestWrongSettings:
    """Exit code 2, all on stderr, nothing started."""

    @pytest.mark.parametrize("command", ["config", "serve", "demo"])
    def test_all_are_told_and_nothing_starts(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Key, place, value and remedy of each; markup in a value is text."""
        monkeypatch.setattr(trio, "run", lambda *_: pytest.fail("something was started"))
        result = run(
            command, "--bind", "[red]x", "-Xoops", "-Xgroup.id=1", environment={"DISPATCHER_MAX_SUBSCRIBERS": "0"}
        )
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "4 invalid settings; nothing was started." in result.stderr
        assert "bind (--bind) = [red]x\n" in result.stderr
        assert "-X = ********\n" in result.stderr
        assert "kafka.group.id (-X group.id) = 1\n    leave it out: set group_id instead" in result.stderr
        assert "max_subscribers (DISPATCHER_MAX_SUBSCRIBERS) = 0\n" in result.stderr

    def test_one_is_told_in_the_singular(self) -> None:
        """English, too."""
        assert "1 invalid setting;" in run("config", "--bind", "").stderr

    def test_an_empty_value_is_a_value(self) -> None:
        """It is checked, not taken for an option that was left out."""
        assert run("config", "--topics", "").exit_code == 2

    def test_a_file_that_is_not_there(self) -> None:
        """Said by name."""
        result = run("config", "--config", "missing.toml")
        assert result.exit_code == 2
        assert "missing.toml" in result.stderr

    def test_in_a_real_process(self) -> None:
        """``python -m dispatcher`` is the same command with the same exit code, and without a traceback."""
        command = [sys.executable, "-m", "dispatcher", "serve", "--bind", "nowhere", "-X", "enable.auto.commit=true"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 2
        assert "2 invalid settings; nothing was started." in result.stderr
        assert "Traceback" not in result.stderr


class TestHelp:
    """``--help`` teaches."""

    @pytest.mark.parametrize("command", ["serve", "config", "demo"])
    def test_every_setting_is_an_option(self, command: str) -> None:
        """By its own name; the demo has a broker of its own."""
        parameters = loaded(command).params
        options = {option for parameter in parameters for option in parameter.opts}
        expected = {f"--{name.replace('_', '-')}" for name in Settings.model_fields if name != "kafka"}
        if command == "demo":
            expected.remove("--bootstrap-servers")
            assert "--bootstrap-servers" not in options
        assert expected | {"-X", "--config", "--topic"} <= options
        assert all(parameter.help for parameter in parameters if isinstance(parameter, click.Option))

    @pytest.mark.parametrize("command", ["", "serve", "config", "demo"])
    def test_examples_keep_their_lines(self, command: str) -> None:
        """One can copy a line of an example, whole."""
        help_text = run(*([command] if command else []), "--help").stdout
        lines = [line.strip() for line in help_text.splitlines()]
        assert "\\b" not in help_text
        assert any(line.startswith(("dispatcher ", "Serve a topic:  ")) for line in lines)

    def test_version(self) -> None:
        """``dispatcher, version …``."""
        assert run("--version").stdout.startswith("dispatcher, version ")


@pytest.mark.usefixtures("no_logging_set_up")
class TestExitCodes:
    """What ``serve`` makes of how the supervisor ends."""

    @pytest.fixture
    def serve(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], Result]:
        """``serve`` with a supervisor that ends like this, from inside two nurseries."""

        def run_serve(error: BaseException | None) -> Result:
            async def supervise(_: Settings, **_options: object) -> None:
                async with trio.open_nursery(), trio.open_nursery():
                    await trio.lowlevel.checkpoint()
                    if error is not None:
                        raise error

            monkeypatch.setattr(supervisor, "supervise", supervise)
            return run("serve")

        return run_serve

    def test_0_when_it_was_stopped(self, serve: Callable[[BaseException | None], Result]) -> None:
        """Stopped as asked."""
        assert serve(None).exit_code == 0

    def test_1_when_it_failed(self, serve: Callable[[BaseException | None], Result]) -> None:
        """Logged once, not raised on."""
        with structlog.testing.capture_logs() as logged:
            assert serve(RuntimeError("broken")).exit_code == 1
        assert [(line["event"], line["log_level"]) for line in logged] == [("failed", "error")]

    def test_2_when_librdkafka_refuses_its_properties(self, serve: Callable[[BaseException | None], Result]) -> None:
        """Found late, told in the same way."""
        result = serve(SettingsError([SettingsProblem("kafka.nosuch", "1", "no such property")]))
        assert result.exit_code == 2
        assert "kafka.nosuch = 1\n    no such property" in result.stderr

    def test_130_when_interrupted_before_it_could_stop(self, serve: Callable[[BaseException | None], Result]) -> None:
        """Ctrl-C before the supervisor listens to signals: no traceback."""
        result = serve(KeyboardInterrupt())
        assert result.exit_code == 128 + signal.SIGINT
        assert result.output == ""


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    """The most common error of operators shows no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "dispatcher", "serve", "--bind", bind, "--log-format", "json"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    lines = [orjson.loads(line) for line in result.stderr.splitlines()]
    # On a slow machine Kafka's clients may have said before that there is no broker.
    assert [line["bind"] for line in lines if line["event"] == "cannot bind"] == [bind], lines
    assert not any("exception" in line for line in lines)
