"""The setting that spreads one replica over several processes, and what it needs from others."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from dispatcher.errors import WrongValue

MAX_WORKERS = 256
MAX_INSTANCE_ID = 249 - len(f"-{MAX_WORKERS}")
"""Kafka's limit of a ``group.instance.id``, less the worker's number."""


def _read_workers(value: object) -> object:
    text = str(value)
    if text == "auto":
        return text
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MAX_WORKERS:
        raise ValueError(f"use a number from 1 to {MAX_WORKERS}, or auto")
    return int(text)


class WorkerSettings(BaseModel):
    """A part of `settings.Settings`."""

    workers: Annotated[int | Literal["auto"], BeforeValidator(_read_workers)] = Field(
        default=1,
        description="Processes that share `bind`, each a member of the group with its own memory; `auto`: one for each "
        "core that affinity and cgroup allow. More than one needs `default_scope = topic`, because a client reaches "
        "any of them, and `operations_bind`, which answers for all. Limits on subscribers and connections apply to all "
        "together. See docs/operations.md.",
    )


def worker_misfits(
    workers: int | str, *, default_scope: str, operations_bind: str, group_instance_id: str
) -> list[WrongValue]:
    """Faults of other settings with more than one worker, which ``auto`` may mean."""
    if workers == 1:
        return []
    wrong = []
    if default_scope != "topic":
        remedy = "topic, with workers: a client reaches any of them, and each owns a part of the partitions"
        wrong.append(WrongValue("default_scope", default_scope, remedy, "workers"))
    if not operations_bind:
        remedy = "an address, with workers: there one process answers for all, on bind any of them would"
        wrong.append(WrongValue("operations_bind", operations_bind, remedy, "workers"))
    if len(group_instance_id) > MAX_INSTANCE_ID:
        remedy = f"at most {MAX_INSTANCE_ID} characters with workers, each of which appends its number"
        wrong.append(WrongValue("group_instance_id", group_instance_id, remedy, "workers"))
    return wrong
