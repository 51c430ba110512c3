"""The settings of the schema registry."""

from collections.abc import Collection
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from dispatcher.errors import WrongValue, WrongValuesError
from dispatcher.setting_values import FilePath, Seconds

SECRETS = frozenset({"schema_registry_password", "schema_registry_token"})
"""Settings whose values are never shown."""


class SchemaSettings(BaseModel):
    """Where schemas come from. Off while `schema_registry_url` is empty."""

    schema_registry_url: str = Field(
        default="",
        description="URL of the registry with the schemas of topics with `decode`; it must offer Confluent's API, "
        "such as `https://registry.example.org:8081` or `http://apicurio:8080/apis/ccompat/v7`. Empty: no registry.",
    )
    schema_registry_user: str = Field(default="", description="User for the registry (basic authentication).")
    schema_registry_password: str = Field(default="", description="The user's password.")
    schema_registry_token: str = Field(
        default="", description="Secret bearer token for the registry, instead of user and password."
    )
    schema_registry_ca: FilePath = Field(
        default="",
        description="PEM file with the CA certificates for the registry. Empty: those of the system.",
    )
    schema_wait_seconds: Seconds = Field(
        default=30,
        description="How long a partition waits for the schema of its next record while the registry does not answer. "
        "After that its records are sent undecoded, with `decode_error`, until the registry answers.",
    )

    def schema_misfits(self, decoded: Collection[str]) -> list[WrongValue]:
        """Values that do not fit together.

        Args:
            decoded: Topics that the settings want decoded.
        """
        wrong = []
        if decoded and not self.schema_registry_url:
            key = f"topic_tables[{next(iter(decoded))}].decode"
            wrong.append(WrongValue(key, "json", "set schema_registry_url as well", "schema_registry_url"))
        if not self.schema_registry_url:
            names = ("schema_registry_user", "schema_registry_password", "schema_registry_token", "schema_registry_ca")
            remedy = "set schema_registry_url as well: without it there is no registry"
            wrong += [WrongValue(name, "", remedy, "schema_registry_url") for name in names if getattr(self, name)]
        if self.schema_registry_password and not self.schema_registry_user:
            remedy = "set schema_registry_user as well"
            wrong.append(WrongValue("schema_registry_password", "", remedy, "schema_registry_user"))
        if self.schema_registry_token and self.schema_registry_user:
            remedy = "set either this or schema_registry_user, not both"
            wrong.append(WrongValue("schema_registry_token", "", remedy, "schema_registry_user"))
        return wrong

    @field_validator("schema_registry_url")
    @classmethod
    def _check_registry_url(cls, url: str) -> str:
        if not url:
            return url
        try:
            parts = urlsplit(url)
            _port = parts.port
        except ValueError:
            raise ValueError("is not a URL: use one such as https://registry.example.org:8081") from None
        if "@" in parts.netloc:
            remedy = "leave out user and password: set schema_registry_user and schema_registry_password"
            raise WrongValuesError([WrongValue("schema_registry_url", "", remedy)])
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is not the URL of a registry: use one such as https://registry.example.org:8081")
        return url.rstrip("/")
