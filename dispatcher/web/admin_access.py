"""Decides who may administer a replica: holders of the token in `admin_token_file`, or of a token that grants it."""

import hmac
from hashlib import sha256
from pathlib import Path

import trio

from dispatcher.errors import ForbiddenError, SettingsError, SettingsProblem, UnauthenticatedError
from dispatcher.setting_kafka import shown_path
from dispatcher.settings import Settings
from dispatcher.web.authentication import NO_COOKIES, Authentication
from dispatcher.web.credentials import Values, find_bearer

MIN_TOKEN_CHARACTERS = 16
"""Shorter tokens can be guessed."""

MAX_TOKEN_BYTES = 4096

BY_FILE = "admin_token_file"
"""What the log calls an administrator who uses the token in the file."""


class AdminAccess:
    """Checks requests for ``/admin``. Only ``Authorization: Bearer`` counts, so no page can borrow a person's cookie.

    Args:
        settings: The file with the token, and the topics that a grant must cover.
        authentication: Checks other tokens; None if the settings require none.

    Raises:
        SettingsError: the file cannot be used.
    """

    def __init__(self, settings: Settings, authentication: Authentication | None = None) -> None:
        self._settings = settings
        self._authentication = authentication
        self._digest = _read(settings.admin_token_file)

    @property
    def is_open(self) -> bool:
        """Whether anybody can be an administrator."""
        return self._digest is not None or self._authentication is not None

    async def reload_admin_token(self) -> None:
        """Read the file again.

        Raises:
            SettingsError: it cannot be used; the previous token stays valid.
        """
        self._digest = await trio.to_thread.run_sync(_read, self._settings.admin_token_file)

    async def check(self, fields: Values) -> str:
        """Identify the administrator who makes a request. *Cancellation*: safe.

        Raises:
            UnauthenticatedError: it carries no token, or a wrong one.
            SeveralTokensError: it carries several.
            ForbiddenError: the token is valid, but its grants do not allow this.
            UnavailableError: the keys to check it with are not known yet.
        """
        token = find_bearer(fields)
        if token is None:
            raise UnauthenticatedError("a token is needed: Authorization: Bearer", has_token=False)
        digest = sha256(token.encode(errors="replace")).digest()
        if self._digest is not None and hmac.compare_digest(digest, self._digest):
            return BY_FILE
        if self._authentication is None:
            raise UnauthenticatedError("the token is not the one in admin_token_file")
        caller = await self._authentication.identify(fields, NO_COOKIES, {})
        if caller.has_expired:
            raise UnauthenticatedError("the token has expired")
        principal, topics = caller.verdict.principal, self._settings.topics
        # An administrator can see and end streams of every topic, so a grant for some topics is not enough.
        if list(principal.allowed_topics("admin", topics)) != list(topics):
            raise ForbiddenError("the token needs a grant with the action admin for every topic of this replica")
        if any(principal.filters("admin", topic) for topic in topics):
            raise ForbiddenError("the token's grant with the action admin must not have a filter")
        return principal.subject


def _read(path: str) -> bytes | None:
    """The digest of the token in a file; None without a file.

    Raises:
        SettingsError: it cannot be read, or its token is too short.
    """
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError([SettingsProblem(BY_FILE, shown_path(path), f"name a readable file ({reason})")]) from error
    if len(token) < MIN_TOKEN_CHARACTERS or len(token.split()) != 1:
        remedy = f"its token must be one word of at least {MIN_TOKEN_CHARACTERS} characters: openssl rand -hex 32"
        raise SettingsError([SettingsProblem(BY_FILE, shown_path(path), remedy)])
    return sha256(token.encode()).digest()
