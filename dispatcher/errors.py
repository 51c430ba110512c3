"""The tree of errors, split by whose fault they are.

An error class carries what an edge needs to answer with it: the HTTP status (RFC 9110), the WebSocket close
code (RFC 6455, section 7.4, and the private 4400 range of ``docs/protocol.md``), and whether trying again can
help. The web room translates at one place, the command line at another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class DispatcherError(Exception):
    """Base of everything that the dispatcher raises on purpose."""

    http_status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011
    retriable: ClassVar[bool] = False
    challenge: str | None = None
    """The ``WWW-Authenticate`` field of the answer (RFC 9110, section 11.6.1), where there is one."""


class BadRequestError(DispatcherError):
    """The client's request is wrong; sending it again unchanged cannot help."""

    http_status = 400
    close_code = 4400


class MalformedPositionError(BadRequestError):
    """An event id that is not a position (docs/protocol.md, "Event ids")."""


class SeveralTokensError(BadRequestError):
    """The request carries a token in more than one way (RFC 6750, section 2)."""

    challenge = 'Bearer realm="dispatcher", error="invalid_request"'


class NotFoundError(DispatcherError):
    """What the request names does not exist here."""

    http_status = 404
    close_code = 4400


class UnauthenticatedError(DispatcherError):
    """The request needs a token, and has none that counts.

    Args:
        reason: What is wrong with the token, in words that hold nothing of the token itself.
        has_token: Whether there was one. Without one the challenge names no error (RFC 6750, section 3.1).
    """

    http_status = 401
    close_code = 4401

    def __init__(self, reason: str, *, has_token: bool = True) -> None:
        super().__init__(reason)
        self.challenge = 'Bearer realm="dispatcher"'
        if has_token:
            self.challenge += f', error="invalid_token", error_description="{_quotable(reason)}"'


class ExpiredTokenError(DispatcherError):
    """The token was right until it expired; with a new one, the same request can succeed."""

    http_status = 401
    close_code = 4419
    retriable = True


class ForbiddenError(DispatcherError):
    """The token is right, and does not allow what the request asks for."""

    http_status = 403
    close_code = 4403

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        description = _quotable(reason)
        self.challenge = f'Bearer realm="dispatcher", error="insufficient_scope", error_description="{description}"'


def _quotable(text: str) -> str:
    """A text as ``error_description`` may hold it (RFC 6750, section 3)."""
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "'" for character in text)


class UnavailableError(DispatcherError):
    """The replica cannot serve this subscriber now; another one, or a later try, can."""

    http_status = 503
    close_code = 1013
    retriable = True


class TooManyError(DispatcherError):
    """This address, or this subject, has as much as one may have; a later try can succeed."""

    http_status = 429
    close_code = 4429
    retriable = True


class SubscriberStalledError(DispatcherError):
    """The subscriber's socket took no byte for ``stall_timeout_seconds``; the client may resume."""

    close_code = 4408
    retriable = True


class SubscriberGoneError(DispatcherError):
    """The subscriber's connection is closed or broken; nothing more can be sent to it."""

    retriable = True


class FellBehindError(DispatcherError):
    """The subscriber was too slow: its next record is no longer in memory; the client may resume."""

    close_code = 4408
    retriable = True


class KafkaClientError(DispatcherError):
    """The Kafka client failed in a way that only rebuilding it can fix.

    Args:
        code: librdkafka's error code (negative: local, positive: from the broker).
        name: The code's name, such as ``UNKNOWN_MEMBER_ID``.
        reason: librdkafka's own words.
    """

    retriable = True

    def __init__(self, code: int, name: str, reason: str) -> None:
        super().__init__(f"{name} ({code}): {reason}")
        self.code = code
        self.name = name
        self.reason = reason


class ResourcesError(DispatcherError):
    """The operating system grants too few threads or too little memory; nothing has started."""


@dataclass(frozen=True, slots=True)
class WrongValue:
    """One thing that a check of several values found."""

    key: str
    value: object
    remedy: str
    """What would be right."""
    beside: str | None = None
    """The setting that it conflicts with; None when the value is wrong by itself."""

    @property
    def setting(self) -> str:
        """The setting that `key` is, or is a part of: ``auth_grants[0].topics`` is one of ``auth_grants``."""
        return self.key.partition("[")[0]


class WrongValuesError(ValueError):
    """Several wrong values found by one check."""

    def __init__(self, values: list[WrongValue]) -> None:
        self.values = values
        super().__init__("; ".join(f"{value.key}: {value.remedy}" for value in values))


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One invalid setting, in words that people can act on."""

    key: str
    """The setting's name as the user wrote it, and its source: ``bind (--bind)``."""
    value: str
    """What was given, secrets hidden."""
    remedy: str
    """What would be right."""


class SettingsError(DispatcherError):
    """The settings are invalid; it lists every problem, and nothing has started."""

    def __init__(self, problems: Sequence[SettingsProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.key} = {p.value}: {p.remedy}" for p in self.problems))
