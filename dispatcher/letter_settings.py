"""Settings of dead letters: what happens to records that nobody takes in time."""

import re
from collections.abc import Collection

from pydantic import BaseModel, Field, field_validator

from dispatcher.errors import WrongValue

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_PLACEHOLDER = "{topic}"


class LetterSettings(BaseModel):
    """A part of `settings.Settings`."""

    dead_letter_topic: str = Field(
        default="{topic}.dlq",
        description="Topic for dead-lettered records; `{topic}` stands for the record's topic. It must exist: the "
        "dispatcher does not create topics. While it is missing, or the dispatcher may not write to it, such records "
        "wait. Empty: no dead letters. See docs/delivery.md.",
    )

    def letter_misfits(self, dead_lettered: Collection[str]) -> list[WrongValue]:
        """Values that do not fit together.

        Args:
            dead_lettered: Topics whose records are dead-lettered.
        """
        for topic in dead_lettered:
            if self.dead_letter_topic.replace(_PLACEHOLDER, topic) in {"", topic}:
                remedy = f"name a topic other than {topic} itself, for its records past their deadline"
                return [WrongValue("dead_letter_topic", self.dead_letter_topic, remedy, "topic_tables")]
        return []

    @field_validator("dead_letter_topic")
    @classmethod
    def _check_dead_letter_topic(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name.replace(_PLACEHOLDER, "x")):
            raise ValueError("is not a topic name: use a-z A-Z 0-9 . _ - and {topic}, such as {topic}.dlq")
        return name
