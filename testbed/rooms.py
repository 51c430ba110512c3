"""``python -m testbed.rooms``: the rooms of the code and the arrows between them, drawn from its imports.

The picture is in docs/architecture.md between two marks, as Mermaid. ``--check`` fails when it is out of date, which is
how ``nox -s lint`` keeps it true, or when a file or a class is too large.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

import click
import grimp

PAGE = Path("docs/architecture.md")
BEGIN, END = "<!-- rooms: written by nox -s rooms -->", "<!-- rooms: end -->"
FILE_LINES = 350
"""Most lines of a file."""
CLASS_LINES = 280
"""Most lines of a class: past that, a part of it wants a file, a name and tests of its own."""
LEAVES = frozenset(
    {
        "settings",
        "auth_settings",
        "ack_settings",
        "edge_settings",
        "schema_settings",
        "letter_settings",
        "topic_settings",
        "setting_kafka",
        "setting_values",
        "worker_settings",
        "errors",
        "invariants",
        "process",
        "authorities",
    }
)
"""Whatever imports them would hide the other arrows."""


def room_of(module: str) -> str | None:
    """The package or root file that a module belongs to, None for leaves and for the package itself."""
    _root, _dot, rest = module.partition(".")
    room = rest.partition(".")[0]
    return room if room and room not in LEAVES and not room.startswith("__") else None


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    graph = grimp.build_graph("dispatcher", include_external_packages=True)
    found: dict[str, set[str]] = defaultdict(set)
    for importer in graph.modules:
        room = room_of(importer) if importer.startswith("dispatcher") else None
        if room is None:
            continue
        for imported in graph.find_modules_directly_imported_by(importer):
            if imported == "confluent_kafka":
                found[room].add("librdkafka")
            elif imported.startswith("dispatcher") and (other := room_of(imported)) not in {None, room}:
                found[room].add(str(other))
            elif imported in {"quart", "quart_trio", "hypercorn"}:
                found[room].add("Quart and Hypercorn")
    return found


def picture() -> str:
    """The rooms and arrows as a Mermaid flow chart."""
    found = arrows()
    # An arrow that others imply says nothing new.
    reachable: dict[str, set[str]] = {}

    def reach(room: str) -> set[str]:
        if room not in reachable:
            reachable[room] = set()
            for other in found.get(room, ()):
                reachable[room] |= {other} | reach(other)
        return reachable[room]

    lines = ["```mermaid", "flowchart TD"]
    for room in sorted(found):
        implied = {further for other in found[room] for further in reach(other)}
        lines += [f"    {_node(room)} --> {_node(other)}" for other in sorted(found[room] - implied)]
    return "\n".join([*lines, "```"])


def too_large(folder: Path) -> list[str]:
    """The files below a folder, and their classes, that have too many lines, each with how many."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(folder)
        if (lines := len(source.splitlines())) > FILE_LINES:
            found.append(f"{name} has {lines} lines, and may have {FILE_LINES}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > CLASS_LINES:
                    found.append(f"{name}: class {node.name} has {lines} lines, and may have {CLASS_LINES}")
    return found


def _node(name: str) -> str:
    """A node that shows its name; Mermaid takes no spaces in the identity itself."""
    return f'{name.replace(" ", "_")}["{name}"]'


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Change nothing; exit with 1 if the picture is out of date, or a file is too large.",
)
def main(*, check: bool) -> None:
    """Draw the rooms of the code, and the arrows between them, into docs/architecture.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _old, after = rest.split(END)
    drawn = f"{before}{BEGIN}\n\n{picture()}\n\n{END}{after}"
    large = too_large(Path("dispatcher")) if check else []
    for line in large:
        click.echo(f"dispatcher/{line}", err=True)
    if large:
        sys.exit(1)
    if check and drawn != page:
        click.echo(f"{PAGE} does not show the rooms as they are: run nox -s rooms", err=True)
        sys.exit(1)
    if not check:
        PAGE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
