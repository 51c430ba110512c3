"""Where settings come from: flag, environment, file, default, in this order, and which of them each came from."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize, ValidationError
from pydantic_settings import EnvSettingsSource

from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.settings import Settings, WrongValuesError, is_secret

ENVIRONMENT_PREFIX = "DISPATCHER_"
DEFAULT_FILE = Path("dispatcher.toml")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings."""

    settings: Settings
    origins: Mapping[str, str]
    """Where each setting came from; librdkafka properties as ``kafka.<name>``."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one source says, and how a user finds a setting there."""

    values: dict[str, Any]
    kafka: dict[str, Any]
    spell: Mapping[str, str]

    def where(self, key: str) -> str:
        return self.spell[key] if key in self.spell else self.spell[""]


def load(flags: Mapping[str, Any], environment: Mapping[str, str], config_path: Path | None = None) -> Loaded:
    """Read all sources and check everything.

    Args:
        flags: Settings that were given on the command line, librdkafka properties under ``kafka``.
        environment: Such as `os.environ`.
        config_path: The file to read; None reads ``dispatcher.toml`` in the current folder if it is there.

    Raises:
        SettingsError: with every problem at once.
    """
    problems: list[SettingsProblem] = []
    layers = [
        _flags_layer(flags),
        _environment_layer(environment, problems),
        _file_layer(config_path, problems),
    ]
    values: dict[str, Any] = {}
    kafka: dict[str, Any] = {}
    origins: dict[str, str] = {name: "default" for name in Settings.model_fields if name != "kafka"}
    for layer in reversed(layers):
        for name, value in layer.values.items():
            values[name] = value
            origins[name] = layer.where(name)
        for name, value in layer.kafka.items():
            kafka[name] = value
            origins[f"kafka.{name}"] = layer.where(f"kafka.{name}")
    values["kafka"] = kafka
    settings = _validate(values, origins, problems)
    if settings is None:
        raise SettingsError(problems)
    return Loaded(settings, origins)


def display(value: object) -> str:
    """A setting's value as people write it."""
    if isinstance(value, ByteSize) and value >= 1024:
        return value.human_readable(separator=" ").replace(".0 ", " ")
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def reference() -> str:
    """The Markdown of ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Made from `dispatcher/settings.py` by `dispatcher config --reference`; a test checks that it is current.",
        "",
        "Precedence: flag (`--history-bytes 128MiB`), environment (`DISPATCHER_HISTORY_BYTES=128MiB`), file",
        "(`--config dispatcher.toml`, or `dispatcher.toml` in the current folder), default. Sizes take plain bytes or",
        "units (`64 MiB`, `512KiB`). `dispatcher config` shows the effective values and where each came from.",
        "",
        "| setting | default | what it does, and why |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = {"client_id": "dispatcher-&lt;hostname&gt;", "kafka": "empty"}.get(name) or display(field.default)
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _flags_layer(flags: Mapping[str, Any]) -> _Layer:
    values = dict(flags)
    kafka = dict(values.pop("kafka", {}))
    spell = {name: f"--{name.replace('_', '-')}" for name in values} | {f"kafka.{name}": f"-X {name}" for name in kafka}
    return _Layer(values, kafka, spell)


def _environment_layer(environment: Mapping[str, str], problems: list[SettingsProblem]) -> _Layer:
    ours = {name: value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}": name for name in Settings.model_fields if name != "kafka"}
    kafka_prefix = f"{ENVIRONMENT_PREFIX}KAFKA__"
    kafka = {
        name.removeprefix(kafka_prefix).lower().replace("_", "."): value
        for name, value in ours.items()
        if name.startswith(kafka_prefix)
    }
    for name, value in ours.items():
        if name not in known and not name.startswith(kafka_prefix):
            problems.append(SettingsProblem(name, value, _did_you_mean(name, [*known, f"{kafka_prefix}…"])))
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in ours.items() if name in known}
    spell = {setting: variable for variable, setting in known.items()} | {
        f"kafka.{name}": f"{kafka_prefix}{name.upper().replace('.', '_')}" for name in kafka
    }
    return _Layer(source(), kafka, spell)


def _file_layer(config_path: Path | None, problems: list[SettingsProblem]) -> _Layer:
    path = config_path or DEFAULT_FILE
    spell = {"": path.name}
    if config_path is None and not path.exists():
        return _Layer({}, {}, spell)
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        problems.append(SettingsProblem("--config", str(path), f"a file that can be read ({error.strerror})"))
        return _Layer({}, {}, spell)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(SettingsProblem("--config", str(path), f"valid TOML ({error})"))
        return _Layer({}, {}, spell)
    kafka = values.pop("kafka", {})
    if not isinstance(kafka, dict):
        problems.append(SettingsProblem(f"kafka ({path.name})", repr(kafka), "a table, [kafka]"))
        kafka = {}
    for name in [name for name in values if name not in Settings.model_fields]:
        remedy = _did_you_mean(name, list(Settings.model_fields))
        problems.append(SettingsProblem(f"{name} ({path.name})", repr(values.pop(name)), remedy))
    return _Layer(values, dict(_flatten(kafka)), spell)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """TOML reads ``session.timeout.ms = 6000`` as nested tables; librdkafka's names are flat."""
    flat: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _validate(values: dict[str, Any], origins: Mapping[str, str], problems: list[SettingsProblem]) -> Settings | None:
    """Check everything; settings that are wrong by themselves are left out to check the others together."""
    while True:
        try:
            settings = Settings(**values)
        except ValidationError as error:
            wrong = _problems_of(error, values, origins)
            problems += [problem for _, problem in wrong]
            fields = {field for field, _ in wrong if field in values}
            if not fields or any(item["loc"] == () for item in error.errors()):
                return None
            for field in fields:
                del values[field]
        else:
            return None if problems else settings


def _problems_of(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]
) -> list[tuple[str, SettingsProblem]]:
    found = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        field = str(item["loc"][0]) if item["loc"] else ""
        if isinstance(cause, WrongValuesError):
            entries = cause.problems
        elif field == "kafka" and len(item["loc"]) > 1:
            name = str(item["loc"][1])
            entries = [(f"kafka.{name}", values["kafka"][name], "a string, a number, or true or false")]
        else:
            entries = [(field, item["input"], _remedy(item["msg"]))]
        for key, value, remedy in entries:
            shown = "********" if is_secret(key) else display(value) if isinstance(value, tuple) else str(value)
            problem = SettingsProblem(f"{key} ({origins.get(key, 'default')})", shown, remedy)
            if (field, problem) not in found:
                found.append((field, problem))
    return found


def _remedy(message: str) -> str:
    """Pydantic's message as the end of a sentence that begins with the key and its value."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"no such setting; did you mean {close[0]}?" if close else "no such setting; `dispatcher config` lists them"
