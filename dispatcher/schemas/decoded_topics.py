"""The topics whose records are decoded, because of the settings or because subscribers ask for it.

Without a registry no topic is decoded: no library of an extra is imported, and nothing runs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.schemas.rules import Rules
from dispatcher.schemas.statistics import NO_DECODING, DecodingStatistics
from dispatcher.settings import Settings

if TYPE_CHECKING:
    from dispatcher.schemas.decoding import RecordDecoder
    from dispatcher.schemas.schemas import Schemas


class DecodedTopics:
    """Decodes records of the topics that need it.

    Args:
        settings: The dispatcher's settings.

    Raises:
        SettingsError: the extra that the registry needs is not installed, or its certificates cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        topics: dict[str, Rules] = {}
        askable: dict[str, Rules] = {}
        for topic, decode in settings.decodable_topics.items():
            rules = Rules(settings.table(topic).int64 == "string", decode == "avro-json")
            (askable if decode == "asked" else topics)[topic] = rules
        self._schemas: Schemas | None = None
        self.decoder: RecordDecoder | None = None
        """The decoder; None if no topic is decoded and nobody can ask for it."""
        if topics or askable:
            self._schemas, self.decoder = _open(settings, topics, askable)

    async def run(self) -> None:
        """Fetch schemas until cancelled, if any topic is decoded. *Cancellation*: safe."""
        if self._schemas is not None:
            await self._schemas.run()

    @property
    def degraded(self) -> list[str]:
        """Say what is wrong with the registry."""
        unavailable = None if self._schemas is None else self._schemas.unavailable
        return [] if unavailable is None else [f"the schema registry is unavailable ({unavailable})"]

    def undecodable(self) -> Mapping[str, str]:
        """Return the topics for which new schemas cannot be fetched, with the reason."""
        unavailable = None if self._schemas is None else self._schemas.unavailable
        if unavailable is None or self.decoder is None:
            return {}
        return dict.fromkeys(self.decoder.topics | self.decoder.asked, unavailable)

    def statistics(self) -> DecodingStatistics:
        """A snapshot."""
        return NO_DECODING if self.decoder is None else self.decoder.statistics()


def _open(
    settings: Settings, topics: Mapping[str, Rules], askable: Mapping[str, Rules]
) -> "tuple[Schemas, RecordDecoder]":
    try:
        from dispatcher.schemas.decoding import RecordDecoder  # noqa: PLC0415 - only with an extra
        from dispatcher.schemas.registry import Registry  # noqa: PLC0415 - the same
        from dispatcher.schemas.schemas import Schemas  # noqa: PLC0415 - the same
    except ImportError as error:
        remedy = f"install an extra that it needs: pip install 'kafka-dispatcher[avro,protobuf]' ({error})"
        raise _wrong("schema_registry_url", settings.schema_registry_url, remedy) from error
    try:
        registry = Registry(
            settings.schema_registry_url,
            user=settings.schema_registry_user or None,
            password=settings.schema_registry_password or None,
            token=settings.schema_registry_token or None,
            ca_file=settings.schema_registry_ca or None,
        )
    except OSError as error:
        remedy = f"name a readable PEM file ({error.strerror or error})"
        raise _wrong("schema_registry_ca", settings.schema_registry_ca, remedy) from error
    schemas = Schemas(registry)
    return schemas, RecordDecoder(schemas, topics, settings.schema_wait_seconds, askable)


def _wrong(name: str, value: str, remedy: str) -> SettingsError:
    return SettingsError([SettingsProblem(name, value, remedy)])
