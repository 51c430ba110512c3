"""The values of settings: how they are spelled, checked and shown.

A check raises `ValueError` with what would be right, as the end of a sentence that begins with the key and its value.
"""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from dispatcher.authorities import ANY, is_loopback, read_authority, read_origin

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
_UNITS = ((GIB, " GiB"), (MIB, " MiB"), (KIB, " KiB"))

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_ADDRESS = re.compile(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")


def display(value: object) -> str:
    """A setting's value as people write it, without loss."""
    if isinstance(value, ByteSize):
        size, unit = next((unit for unit in _UNITS if value >= unit[0] and value % unit[0] == 0), (1, ""))
        return f"{value // size}{unit}"
    if isinstance(value, Mapping):
        return "a table"  # its content may be secret
    if isinstance(value, (tuple, list)):
        return ",".join(map(display, value))
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")


def is_content(value: object) -> bool:
    """Whether a value is the content of a file, such as a key, and not what people write as a setting."""
    text = str(value)
    return "----BEGIN" in text or "\n" in text or "\r" in text


def is_path(field: FieldInfo) -> bool:
    """Whether a setting is the path of a file."""
    return _IS_PATH in field.metadata


def check_path(path: str) -> str:
    """The path of a file.

    Raises:
        ValueError: it is no path; it may be the content of the file, so nobody must show it.
    """
    if is_content(path) or "\0" in path:
        raise ValueError("use the path of the file, not its content")
    return path


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, an IPv6 host without its brackets.

    Raises:
        ValueError: it is not such an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:8000, kafka-1:9092, or [::1]:8000")
    return match[1].strip("[]"), int(match[2])


def _check_address(text: str) -> str:
    split_address(text)
    return text


def _check_brokers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        _host, port = split_address(server)
        if port == 0:
            raise ValueError(f"{server!r} needs the broker's port, such as 9092")
    return ",".join(servers)


def _join(value: object) -> object:
    """Turn a list, as a file may have it, into the text that it means."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return value


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _split_or_none(value: object) -> object:
    return () if value == "" else _split(value)


def is_loopback_address(bind: str) -> bool:
    """Whether ``host:port`` is an address or a name of this machine alone."""
    host, _port = split_address(bind)
    authority = read_authority(f"[{host}]" if ":" in host else host)
    return authority is not None and is_loopback(authority.host)


def _check_topics(topics: tuple[str, ...]) -> tuple[str, ...]:
    if not topics:
        raise ValueError("name at least one topic")
    for topic in topics:
        if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
            raise ValueError(f"{topic!r} is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -")
    if len(set(topics)) < len(topics):
        raise ValueError("name each topic once")
    return topics


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_read_allowed_origin(text) for text in origins))


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_read_allowed_host(text) for text in hosts))


def _read_allowed_origin(text: str) -> str:
    """One of `allowed_origins`, in the spelling in which it is compared."""
    if text == ANY:
        return text
    origin = read_origin(text)
    if origin is None or text.lower().startswith(("ws://", "wss://")):
        raise ValueError(
            f"{text!r} is not an origin: use https://host[:port] without a path, *, null, or one with another scheme, "
            "such as file:// or capacitor://localhost"
        )
    return origin.text


def _read_allowed_host(text: str) -> str:
    """One of `allowed_hosts`, in the spelling in which it is compared."""
    if text == ANY:
        return text
    authority = read_authority(text)
    if authority is None or ":" in text.rpartition("]")[2]:
        raise ValueError(
            f"{text!r} is not a host: use a name without scheme, port and path, such as stream.example.org"
        )
    return authority.host


_IS_PATH = AfterValidator(check_path)

FilePath = Annotated[str, _IS_PATH]
"""The path of a file. In the environment, its ``_FILE`` does not name a file with the path, but is the path."""
Size = Annotated[ByteSize, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
"""At most a day: timers of the operating system cannot wait for ever."""
Address = Annotated[str, AfterValidator(_check_address)]
"""``host:port``."""
Brokers = Annotated[str, BeforeValidator(_join), AfterValidator(_check_brokers)]
"""Addresses, comma-separated or in a list."""
Topics = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_topics)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_or_none), AfterValidator(_check_origins)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_or_none), AfterValidator(_check_hosts)]
