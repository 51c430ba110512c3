"""Reads settings from flags, environment, file and defaults, in this order, and records the source of each.

In the environment ``<VARIABLE>_FILE`` names a file that holds the value, which is how orchestrators hand out secrets.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from dispatcher.auth_settings import PREFIX as AUTH_PREFIX
from dispatcher.auth_settings import TABLE as AUTH_TABLE
from dispatcher.errors import SettingsError, SettingsProblem, WrongValue, WrongValuesError
from dispatcher.schema_settings import SECRETS
from dispatcher.setting_kafka import (
    CLASSIC_KAFKA_PROPERTIES,
    HIDDEN,
    OWNED_KAFKA_PROPERTIES,
    is_path_property,
    is_secret,
    shown_path,
)
from dispatcher.setting_values import display, is_content, is_path
from dispatcher.settings import Settings
from dispatcher.topic_settings import FIELD as TOPIC_TABLES

ENVIRONMENT_PREFIX = "DISPATCHER_"
KAFKA_PREFIX = f"{ENVIRONMENT_PREFIX}KAFKA__"
FILE_SUFFIX = "_FILE"
DEFAULT_FILE = Path("dispatcher.toml")

_WITH_UNDERSCORES = {"log_level", *(name for name in OWNED_KAFKA_PROPERTIES if "_" in name)}
"""The few properties whose names contain underscores; in the environment all other underscores mean dots."""

_CREDENTIALS = re.compile(r"[^\s'\",/@]+@")
"""User and password in a URL, or in something that should have been a host."""

_KUBERNETES = re.compile(
    r"DISPATCHER_(?:SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
)

_KUBERNETES_VALUE = re.compile(r"(?:(?:tcp|udp|sctp)://\S+|[0-9]+|tcp|udp|sctp|[0-9a-f.:]+)", re.IGNORECASE)
"""Values that Kubernetes sets in each pod for a Service named ``dispatcher``, and Docker for a link of that name."""

_READ_BY_LIBRDKAFKA = {
    f"{KAFKA_PREFIX}SASL_OAUTHBEARER_ASSERTION_{which}FILE" for which in ("", "PRIVATE_KEY_", "JWT_TEMPLATE_")
}
"""The few librdkafka properties whose names end with ``.file``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings."""

    settings: Settings
    origins: Mapping[str, str]
    """Where each setting came from, such as ``flag --bind``; librdkafka properties as ``kafka.<name>``."""


@dataclass(frozen=True, slots=True)
class _Given:
    """One setting, as the user gave it."""

    value: Any
    kind: str
    """``flag``, ``environment``, or empty for the file."""
    place: str
    """Where the user finds it: ``--bind``, ``DISPATCHER_BIND``, ``dispatcher.toml``."""

    is_from_file: bool = False
    """Whether it was read from a file that ``<VARIABLE>_FILE`` names."""

    @property
    def origin(self) -> str:
        return f"{self.kind} {self.place}".lstrip()


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    config_path: Path | None = None,
    *,
    flags_only: Collection[str] = (),
    with_workers: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read all sources and check everything.

    Args:
        flags: Settings that were given on the command line; under ``kafka`` a sequence of ``key=value``.
        environment: Variables, such as `os.environ`.
        config_path: The file to read; None reads ``dispatcher.toml`` in the current folder if it exists.
        flags_only: Settings for which environment and file are ignored.
        with_workers: Defaults that other settings get if there is more than one worker.

    Raises:
        SettingsError: with every problem at once.
    """
    problems: list[SettingsProblem] = []
    given = {
        name: one
        for name, one in (_from_file(config_path, problems) | _from_environment(environment, problems)).items()
        if name.partition(".")[0] not in flags_only
    }
    given |= _from_flags(flags, problems)
    if with_workers and "workers" in given and str(given["workers"].value) != "1":
        given = {name: _Given(value, "", "workers") for name, value in with_workers.items()} | given
    _keep_tables_of(given)
    settings = _validate(given, problems)
    if settings is None:
        raise SettingsError(problems)
    origins = {name: "default" for name in Settings.model_fields if name != "kafka"}
    return Loaded(settings, origins | {name: one.origin for name, one in given.items()})


def _keep_tables_of(given: dict[str, _Given]) -> None:
    """Drop the file's tables of topics that are not served, because flags or the environment name other topics."""
    tables, topics = given.get(TOPIC_TABLES), given.get("topics")
    if tables and topics and topics.kind and not tables.kind and isinstance(tables.value, dict):
        named = topics.value.split(",") if isinstance(topics.value, str) else topics.value
        kept = {topic: table for topic, table in tables.value.items() if topic in {name.strip() for name in named}}
        given[TOPIC_TABLES] = replace(tables, value=kept)


def _from_flags(flags: Mapping[str, Any], problems: list[SettingsProblem]) -> dict[str, _Given]:
    given = {}
    for name, value in flags.items():
        if name != "kafka":
            given[name] = _Given(value, "flag", f"--{name.replace('_', '-')}")
    for pair in flags.get("kafka", ()):
        key, equals, value = pair.partition("=")
        if key and equals:
            given[f"kafka.{key}"] = _Given(value, "flag", f"-X {key}")
        else:
            problems.append(SettingsProblem("-X", HIDDEN, "use KEY=VALUE, such as -X security.protocol=ssl"))
    return given


def _from_environment(environment: Mapping[str, str], problems: list[SettingsProblem]) -> dict[str, _Given]:
    variables = {name: f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields if name != "kafka"}
    known = set(variables.values())
    spelled = {**variables, "kafka": f"{KAFKA_PREFIX}<PROPERTY>"}
    environment, places = _read_files(environment, known, problems)
    given = {}
    for variable, value in environment.items():
        if _is_of_kubernetes(variable, value):
            continue
        if variable.startswith(KAFKA_PREFIX):
            given[f"kafka.{_property(variable)}"] = _given_in_environment(variable, value, places)
        elif variable.startswith(KAFKA_PREFIX.removesuffix("_")):
            rest = variable.removeprefix(KAFKA_PREFIX.removesuffix("_"))
            remedy = f"no such setting; did you mean {KAFKA_PREFIX}{rest}?"
            problems.append(SettingsProblem(variable, HIDDEN, remedy))
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in known:
            remedy = _did_you_mean(variable.removeprefix(ENVIRONMENT_PREFIX).lower(), spelled)
            problems.append(SettingsProblem(variable, HIDDEN, remedy))
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in environment.items() if name in known}
    for name, value in source().items():
        given[name] = _given_in_environment(variables[name], value, places)
    return given


def _given_in_environment(variable: str, value: Any, places: Mapping[str, str]) -> _Given:
    place = places.get(variable, variable)
    return _Given(value, "environment", place, is_from_file=place != variable and not _is_path(variable))


def _property(variable: str) -> str:
    """The librdkafka property that a variable means."""
    name = variable.removeprefix(KAFKA_PREFIX).lower()
    return name if name in _WITH_UNDERSCORES else name.replace("_", ".")


def _is_path(variable: str) -> bool:
    """Whether a setting is a path: then ``_FILE`` does not mean the content of a file."""
    if variable.startswith(KAFKA_PREFIX):
        return is_path_property(_property(variable))
    return is_path(Settings.model_fields[variable.removeprefix(ENVIRONMENT_PREFIX).lower()])


def _read_files(
    environment: Mapping[str, str], known: Collection[str], problems: list[SettingsProblem]
) -> tuple[dict[str, str], dict[str, str]]:
    """The environment with the values read from files filled in, and the variables that named those files."""
    values, places = dict(environment), {}
    for place, path in environment.items():
        variable = place.removesuffix(FILE_SUFFIX)
        if place == variable or place in _READ_BY_LIBRDKAFKA:
            continue
        if variable not in known and not variable.startswith(KAFKA_PREFIX):
            continue
        del values[place]
        shown = shown_path(path)
        if variable in environment:
            problems.append(SettingsProblem(place, shown, f"set either this or {variable}, not both"))
            continue
        if _is_path(variable):
            values[variable], places[variable] = path, place
            continue
        try:
            # Editors and echo end a file with a newline that is not part of the value.
            values[variable] = Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
        except OSError as error:
            problems.append(SettingsProblem(place, shown, f"name a readable file ({error.strerror})"))
        except ValueError:
            problems.append(SettingsProblem(place, shown, "name a file that holds UTF-8 text"))
        else:
            places[variable] = place
    return values, places


def _from_file(config_path: Path | None, problems: list[SettingsProblem]) -> dict[str, _Given]:
    path = config_path or DEFAULT_FILE
    if config_path is None and not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.append(SettingsProblem("--config", str(path), f"name a readable file ({error.strerror})"))
        return {}
    except ValueError as error:
        problems.append(SettingsProblem("--config", str(path), f"name a valid TOML file in UTF-8 ({error})"))
        return {}
    kafka = values.pop("kafka", {})
    if not isinstance(kafka, dict):
        problems.append(SettingsProblem(f"kafka ({path})", HIDDEN, "use a table, [kafka]"))
        kafka = {}
    auth = values.pop(AUTH_TABLE, {})
    if not isinstance(auth, dict):
        problems.append(SettingsProblem(f"{AUTH_TABLE} ({path})", HIDDEN, f"use a table, [{AUTH_TABLE}]"))
        auth = {}
    values |= {f"{AUTH_PREFIX}{name}": value for name, value in auth.items()}
    if isinstance(values.get("topics"), dict):
        values[TOPIC_TABLES] = values.pop("topics")
        values["topics"] = list(values[TOPIC_TABLES])
    given = {f"kafka.{name}": _Given(value, "", str(path)) for name, value in _flatten(kafka)}
    for name, value in values.items():
        if name in Settings.model_fields:
            given[name] = _Given(value, "", str(path))
        else:
            remedy = _did_you_mean(name, {field: field for field in Settings.model_fields})
            problems.append(SettingsProblem(f"{name} ({path})", HIDDEN, remedy))
    return given


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads ``session.timeout.ms = 6000`` as nested tables; librdkafka's names are flat."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _validate(given: Mapping[str, _Given], problems: list[SettingsProblem]) -> Settings | None:
    """Check everything; values that are wrong by themselves are left out when the others are checked together."""
    wrong: set[str] = set()
    while True:
        values: dict[str, Any] = {"kafka": {}}
        for name, one in given.items():
            if name not in wrong:
                table, _, key = name.partition(".")
                if key:
                    values[table][key] = one.value
                else:
                    values[name] = one.value
        try:
            settings = Settings(**values)
        except ValidationError as error:
            found = [value for value in _wrong_values(error) if value.beside not in wrong]
            for value in found:
                # A key that was not given is a default, or a part of a given value.
                place = given[value.setting].place if value.setting in given else "default"
                one = given.get(value.key, _Given(value.value, "", place))
                problem = _problem(f"{value.key} ({one.place})", one.value, value.remedy, is_from_file=one.is_from_file)
                # Pydantic reports the errors of every type that the setting may have.
                if value.beside or all(problem.key != earlier.key for earlier in problems):
                    problems.append(problem)
            alone = {value.setting for value in found if value.beside is None}
            if not alone:
                return None
            wrong |= alone
        else:
            return None if problems else settings


def _wrong_values(error: ValidationError) -> Iterator[WrongValue]:
    for item in error.errors():
        if item["type"] == "default_factory_not_called":
            continue  # a default that depends on a wrong value
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, WrongValuesError):
            yield from cause.values
        elif item["loc"][0] == "kafka":
            yield WrongValue(f"kafka.{item['loc'][1]}", item["input"], "use a string, a number, true or false")
        else:
            yield WrongValue(str(item["loc"][0]), item["input"], _remedy(item["type"], item["msg"]))


def _remedy(kind: str, message: str) -> str:
    """Pydantic's message, worded to follow the key and its value."""
    if kind.startswith("byte_size"):
        return "use a number of bytes, or a size such as 64 MiB or 512KiB"
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _problem(key: str, value: object, remedy: str, *, is_from_file: bool) -> SettingsProblem:
    """A problem with a known setting. The value of an unknown one may be a secret, and is never shown.

    Neither is the content of a file, which may be another secret if the path is wrong.
    """
    name = key.partition(" ")[0]
    shown = shown_path(str(value)) if name == "admin_token_file" else display(value)
    if name.startswith("kafka."):
        name = name.removeprefix("kafka.")
        is_shown = name in OWNED_KAFKA_PROPERTIES or name in CLASSIC_KAFKA_PROPERTIES
    else:
        is_shown = not is_secret(name) and name not in SECRETS
    if not is_shown or is_from_file or is_content(shown) or shown == HIDDEN:
        for text in (value, *_parts(value)):
            remedy = remedy.replace(repr(text), HIDDEN) if len(str(text)) > 2 else remedy
        return SettingsProblem(key, HIDDEN, remedy)
    return SettingsProblem(key, _CREDENTIALS.sub(f"{HIDDEN}@", shown), _CREDENTIALS.sub(f"{HIDDEN}@", remedy))


def _parts(value: object) -> Iterator[str]:
    """The items of a list, as checks quote them."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        yield from (part.strip() for part in str(item).split(","))


def _is_of_kubernetes(variable: str, value: str) -> bool:
    return (
        _KUBERNETES.fullmatch(variable) is not None
        and _KUBERNETES_VALUE.fullmatch(value) is not None
        and (variable != f"{ENVIRONMENT_PREFIX}PORT" or "://" in value)
    )


def _did_you_mean(name: str, spelled: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, spelled, n=1)
    return f"no such setting; {f'did you mean {spelled[close[0]]}?' if close else '`dispatcher config` lists them'}"
