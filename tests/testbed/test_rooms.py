"""The rooms of the code: none of them grows past the size at which it wants a door."""

from pathlib import Path

import pytest

from testbed.rooms import CLASS_LINES, FILE_LINES, too_large

SOURCE = Path(__file__).parents[2] / "dispatcher"


def test_no_file_and_no_class_is_too_large() -> None:
    """Beyond that, a part should move to a file with tests of its own."""
    assert too_large(SOURCE) == []


@pytest.mark.parametrize(("more", "found"), [(0, 0), (1, 1)])
def test_a_file_and_a_class_are_too_large_from_one_line_on(tmp_path: Path, more: int, found: int) -> None:
    """Both are named with their lines and the maximum."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "long.py").write_text("\n" * (FILE_LINES + more))
    body = "    x = 1\n" * (CLASS_LINES - 1 + more)
    (tmp_path / "room" / "wide.py").write_text(f"class Wide:\n{body}")
    expected = [
        f"room/long.py has {FILE_LINES + 1} lines, and may have {FILE_LINES}",
        f"room/wide.py: class Wide has {CLASS_LINES + 1} lines, and may have {CLASS_LINES}",
    ]
    assert too_large(tmp_path) == expected[: 2 * found]
