"""What chaos runs beside the auditor's topic and the readers' one: topics with a promise of their own."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Protocol

from tests.audit.fleet import Fleet
from tests.chaos.acked import Acked
from tests.chaos.attribution import Attribute
from tests.chaos.filtered import Filtered
from tests.chaos.judge import Judge
from tests.chaos.observed import Observed


class Name(StrEnum):
    """What can run beside."""

    SCOPES = "scopes"
    FILTERS = "filters"
    ACKS = "acks"


EXPLAINED = {
    Name.SCOPES: "some readers have the whole topic and some observe; a topic has observers alone, who move no offset",
    Name.FILTERS: "readers with filters by key, header and field, of topics with unmatched=settle and unmatched=park",
    Name.ACKS: "clients of a topic with commit_on=acked that work for random times, are late, and die at any moment",
}
"""What each is, for people."""


class Beside(Protocol):
    """Topics, their clients, and what is expected of them."""

    @property
    def topics(self) -> Mapping[str, int]:
        """Partitions by topic."""

    @property
    def tables(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of single topics."""

    @property
    def judges(self) -> list[Judge]:
        """Return the judges of its readers."""

    async def run(self, fleet: Fleet, seed: int, slots: int) -> None:
        """Produce until `quiet`, and let clients come and go until cancelled."""

    def quiet(self) -> None:
        """Produce no more."""

    async def settle(self, fleet: Fleet, attribute: Attribute) -> None:
        """Wait for what is owed, and find out what the group has committed."""

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""

    @property
    def evidence(self) -> Iterator[str]:
        """Return what was wrong, in words."""


def make(name: Name, bootstrap_servers: str, group: str, topic: str, workers: int) -> Beside:
    """Make the companion of this name, with topics whose names begin with that of the auditor's."""
    if name is Name.SCOPES:
        return Observed(bootstrap_servers, group, f"{topic}-observed")
    if name is Name.ACKS:
        return Acked(bootstrap_servers, group, f"{topic}-acked", workers)
    return Filtered(bootstrap_servers, group, topic, workers)
