"""The reference of the settings, generated from their fields."""

from dispatcher.setting_values import display
from dispatcher.settings import Settings
from dispatcher.topic_settings import FIELD as TOPIC_TABLES

_MADE_DEFAULTS = {
    "client_id": "`dispatcher-<hostname>`",
    "idle_leave_seconds": "`0`; `30` with `default_scope=topic`, unless the member is static",
    "kafka": "empty",
    TOPIC_TABLES: "none",
}
"""Defaults that depend on the machine or on other settings, in words."""


def reference() -> str:
    """The Markdown of ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Generated from `dispatcher/settings.py` by `dispatcher config --reference`; a test checks that it is current.",
        "",
        "Precedence: flag (`--history-bytes 128MiB`), environment (`DISPATCHER_HISTORY_BYTES=128MiB`), file",
        "(`--config dispatcher.toml`, or `dispatcher.toml` in the current folder), default. Sizes are plain numbers of",
        "bytes, or have units (`64 MiB`, `512KiB`). `dispatcher config` shows the effective values and their sources.",
        "Passwords, keys and other secrets are never shown. Pass them in the environment or the file, because every",
        "user of a machine can read a process's flags. A variable whose name ends with `_FILE` holds the path of a",
        "file with the value, such as `DISPATCHER_KAFKA__SASL_PASSWORD_FILE=/run/secrets/sasl_password`. If the value",
        "is itself the path of a file, the variable holds that path: `DISPATCHER_TLS_KEY_FILE=/run/secrets/key`.",
        "",
        "| setting | default | description |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = _MADE_DEFAULTS.get(name) or f"`{display(field.default)}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
