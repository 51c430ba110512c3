"""``python -m testbed.contracts --write``: copy the contracts in docs into the package, as JSON, which serves them."""

import json
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "dispatcher" / "web" / "contract"


def read(name: str) -> dict[str, Any]:
    """A contract in docs."""
    contract: dict[str, Any] = yaml.safe_load((DOCS / name).read_text(encoding="utf-8"))
    return contract


def copies() -> dict[str, str]:
    """What the package has to have, by file."""
    return {
        "openapi.json": json.dumps(read("openapi.yaml"), ensure_ascii=False, separators=(",", ":")) + "\n",
        "messages.schema.json": (DOCS / "messages.schema.json").read_text(encoding="utf-8"),
    }


@click.command()
@click.option("--write", is_flag=True, help="Write them; otherwise say which are not current.")
def main(*, write: bool) -> None:
    """Copy the contracts into the package."""
    for name, text in copies().items():
        path = PACKAGE / name
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise click.ClickException(f"{path.relative_to(ROOT)} is not current: python -m testbed.contracts --write")


if __name__ == "__main__":
    main()
