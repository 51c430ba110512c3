"""What ``dispatcher redrive`` shows."""

from collections import Counter

from rich.console import Console

from dispatcher.command.redrive import table_of


def test_reasons_of_letters_are_text() -> None:
    """Markup and terminal sequences in a letter's reason are printed as text."""
    reasons = ["[/x]", "[red]late[/]", "\x1b]0;title\x07", "too\nlong"]
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(table_of(Counter({("orders", reason): 1 for reason in reasons}), Counter(), dry_run=False))
    shown = capture.get()
    for text in ("[/x]", "[red]late[/]", r"\x1b]0;title\x07", r"too\nlong"):
        assert text in shown
