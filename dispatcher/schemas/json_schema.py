"""JSON Schema: the content is JSON already, so it is only checked to be JSON."""

import orjson

from dispatcher.schemas.framing import UndecodableError


class JsonDecoder:
    """Passes JSON on exactly as the producer wrote it, digits included; does not validate it against its schema.

    Args:
        text: The schema, as in the registry.

    Raises:
        UndecodableError: the schema is not JSON.
    """

    kind = "JSON"

    def __init__(self, text: str) -> None:
        try:
            schema = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UndecodableError(f"its JSON Schema is not JSON: {error}") from error
        title = schema.get("title") if isinstance(schema, dict) else None
        self.name = title if isinstance(title, str) else "json"

    def decode(
        self,
        content: bytes,
        indexes: bytes = b"",  # noqa: ARG002 - of others
        *,
        int64_strings: bool = False,  # noqa: ARG002 - the same
        avro_json: bool = False,  # noqa: ARG002 - the same
    ) -> bytes:
        """Return the value as JSON on one line.

        Raises:
            UndecodableError: the value is not JSON.
        """
        try:
            orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise UndecodableError(f"it is not JSON: {error}") from error
        # Strings in JSON contain no raw line ends (RFC 8259, section 7), so these are all white space.
        return content.replace(b"\n", b" ").replace(b"\r", b" ")
