"""The check of English finds the habits, lets right uses alone, and lets no budget rise."""

import pytest

from testbed.english import by_folder, lowered, over, search


@pytest.mark.parametrize(
    ("text", "habit"),
    [
        ("the log begins anew", "anew"),
        ("Stop behind the last record.", "behind for after"),
        ("nothing is behind it", "behind for after"),
        ("every client is told", "is told"),
        ('"""Who comes is served."""', "Who as a subject"),
        ("It waits. Who has left is not sent it.", "Who as a subject"),
        ("stop after so many records", "so many, so often"),
        ("work is done once a batch", "once a batch"),
    ],
)
def test_a_habit_is_found(text: str, habit: str) -> None:
    """It is reported with its place, and with what to write instead."""
    (find,) = search("dispatcher/web/page/client.js", f"first\n{text}\n")
    assert (find.line, find.habit, find.folder) == (2, habit, "dispatcher/web")
    assert str(find).startswith(f"dispatcher/web/page/client.js:2: {habit}: ")
    assert "write: " in str(find)


@pytest.mark.parametrize(
    "text",
    [
        "a subscriber that is behind",
        "replicas behind a balancer, and behind the proxy",
        "how far it has fallen behind the head",
        "Who is in the group?",
        "- **Who gets what.** One cannot be told from the other.",
        "somebody who is slow",
        "a renewal; so few; once per batch",
        "there are so many that one line is not enough",
    ],
)
def test_right_uses_are_left_alone(text: str) -> None:
    """Some uses are right, as for lag and proxies, or at the start of a question."""
    assert list(search("docs/page.md", text)) == []


def test_a_budget_only_falls() -> None:
    """A folder without a budget has none, and lowering raises nothing."""
    folders = by_folder(
        [*search("docs/a.md", "anew\nanew"), *search("tests/web/b.py", "anew"), *search("c.md", "anew")]
    )
    assert set(over({"docs": 2, "tests/web": 1}, folders)) == {"."}
    assert over({"docs": 9, "tests/web": 1, ".": 1}, folders) == {}
    assert lowered({"docs": 9, "tests/web": 0, "gone": 4}, folders) == {"docs": 2}
