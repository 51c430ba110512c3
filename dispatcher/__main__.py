"""``python -m dispatcher``, and the ``dispatcher`` command."""

from dispatcher.command.interrupts import interrupts_end_quietly


def main() -> None:
    """Load the command line, which takes a moment, and run it; what has to be stopped in order takes signals itself."""
    with interrupts_end_quietly():
        from dispatcher.command.main import main as run  # noqa: PLC0415 - Ctrl-C may come while it is loaded

        run()


if __name__ == "__main__":
    main()
