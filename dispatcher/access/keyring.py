"""Keeps the issuer's keys fresh: fetches them in the background, and at once when a token names an unknown key.

Rules of this module:

* One task fetches. So there is one fetch at a time, whatever tokens arrive, and no client that leaves cancels it.
* Unknown keys cause at most one fetch in `UNKNOWN_KEY_SECONDS`: clients can invent any number of key names.
* When a fetch fails, the last good keys stay. New keys replace all old ones: a key that the issuer has withdrawn is
  gone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
import trio

from dispatcher.access.keyring_statistics import KeyringStatistics
from dispatcher.access.keys import KeySet, UnusableKeysError, read_keys, read_secret
from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.setting_kafka import HIDDEN
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

UNKNOWN_KEY_SECONDS = 30.0
"""The least time between two fetches for keys that tokens name."""

FETCH_SECONDS = 10.0
"""How long one fetch may take."""

RETRY_SECONDS = (1.0, 30.0)
"""After a failed fetch: the first wait, which doubles, and the longest."""

MAX_DOCUMENT_BYTES = 512 * 1024


class KeySource(Protocol):
    """Where keys are fetched from."""

    async def fetch(self) -> KeySet:
        """Fetch the current keys. *Cancellation*: safe.

        Raises:
            UnusableKeysError: there are no usable keys; the message says why.
        """


class FileSource:
    """A file with public keys, or with a secret.

    Args:
        path: Where the file is.
        read: Makes keys from its content.
    """

    def __init__(self, path: Path, read: Callable[[bytes], KeySet]) -> None:
        self._path = path
        self._read = read

    def read(self) -> KeySet:
        """Read the keys from the file.

        Raises:
            UnusableKeysError: the file cannot be read, or holds no keys.
        """
        try:
            with self._path.open("rb") as file:
                document = file.read(MAX_DOCUMENT_BYTES)
        except OSError as error:
            raise UnusableKeysError(f"the file cannot be read ({error.strerror})") from error
        return self._read(document)

    async def fetch(self) -> KeySet:
        """See `KeySource`."""
        return await trio.to_thread.run_sync(self.read)


class Keyring:
    """The keys that are valid now.

    Args:
        source: Where the keys are fetched from.
        refresh_seconds: The time between two fetches.
        keys: Keys that are known already.
    """

    def __init__(self, source: KeySource, refresh_seconds: float, keys: KeySet | None = None) -> None:
        self.keys = keys or KeySet(())
        self.fetches = 0
        self.failures = 0
        """Failed fetches in a row."""
        self._failed = 0
        """Failed fetches since the start."""
        self.source = source
        self._refresh_seconds = refresh_seconds
        self._asked = trio.Event()
        self._fetched = trio.Event()
        """Set when the fetch under way ends, or else the next one."""
        self._is_fetching = False
        self._unknown_again_at = 0.0
        self.on_change: Callable[[], object] = lambda: None
        """Called when the keys have changed."""

    async def run(self) -> None:
        """Fetch keys until cancelled."""
        is_first = not self.keys
        while True:
            if is_first or self._asked.is_set():
                await self._fetch()
            is_first = False
            wait_seconds = self._refresh_seconds
            if self.failures:
                first, longest = RETRY_SECONDS
                wait_seconds = min(wait_seconds, longest, first * 2.0 ** (self.failures - 1))
            with trio.move_on_after(wait_seconds):
                await self._asked.wait()
            self._asked.set()

    async def wait_for_unknown_key(self) -> bool:
        """Wait for newer keys on behalf of a token that names an unknown key.

        *Cancellation*: safe, the fetch continues.

        Returns:
            Whether there was a fetch; False at once if the last fetch for an unknown key is too recent.
        """
        if self._is_fetching:
            await self._fetched.wait()
            return True
        now = trio.current_time()
        if now < self._unknown_again_at:
            return False
        self._unknown_again_at = now + UNKNOWN_KEY_SECONDS
        await self.refresh()
        return True

    async def wait_for_first_keys(self) -> None:
        """Wait for the fetch under way, if there are no keys yet."""
        if not self.keys and self._is_fetching:
            await self._fetched.wait()

    async def refresh(self) -> None:
        """Wait for a fetch that begins now or later. *Cancellation*: safe, the fetch continues."""
        while self._is_fetching:
            await self._fetched.wait()
        self._asked.set()
        await self._fetched.wait()

    def statistics(self) -> KeyringStatistics:
        """A snapshot."""
        return KeyringStatistics(len(self.keys), self.fetches, self._failed)

    async def _fetch(self) -> None:
        self._asked, self._is_fetching = trio.Event(), True
        self.fetches += 1
        try:
            with trio.fail_after(FETCH_SECONDS):
                keys = await self.source.fetch()
        except (UnusableKeysError, trio.TooSlowError) as error:
            self.failures += 1
            self._failed += 1
            reason = str(error) or f"there was no answer within {FETCH_SECONDS:g} s"
            log.warning(
                "issuer's keys could not be fetched", reason=reason, keys=len(self.keys), failures=self.failures
            )
        else:
            before, self.keys, self.failures = self.keys, keys, 0
            if keys.thumbprints != before.thumbprints:
                log.info("issuer's keys fetched", keys=len(keys), new=len(keys.thumbprints - before.thumbprints))
                self.on_change()
        finally:
            fetched, self._fetched, self._is_fetching = self._fetched, trio.Event(), False
            fetched.set()


def open_keyring(settings: Settings) -> Keyring:
    """Open the keyring that the settings describe. A file is read here, so that a bad file stops the start.

    Raises:
        SettingsError: the file holds no keys.
    """
    source: KeySource
    keys = None
    if settings.auth_keys_file or settings.auth_secret_file:
        name = "auth_keys_file" if settings.auth_keys_file else "auth_secret_file"
        path = getattr(settings, name)
        source = FileSource(
            Path(path),
            read_keys if settings.auth_keys_file else lambda document: read_secret(document, settings.algorithms),
        )
        try:
            keys = source.read()
        except (UnusableKeysError, ValueError) as error:
            # Some people put the key itself where the path belongs; a key has no slash, or more than one line.
            shown = path if "/" in path and "\n" not in path and len(path) < 256 else HIDDEN
            raise SettingsError([SettingsProblem(name, shown, f"a file with keys: {error}")]) from error
    else:
        from dispatcher.access.discovery import UrlSource  # noqa: PLC0415 - files need no HTTP client

        source = UrlSource(settings.auth_issuer, settings.auth_jwks_url)
    return Keyring(source, settings.auth_refresh_seconds, keys)
