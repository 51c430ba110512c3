"""``/openapi.json`` and ``/messages.schema.json``: what the service promises, for programs.

Both are copies of files in docs, made by ``python -m testbed.contracts --write``.
"""

from pathlib import Path

from quart import Quart

from dispatcher.web.page import SHARED_HEADERS, file_view

FILES = {
    "/openapi.json": ("openapi.json", "application/json"),
    "/messages.schema.json": ("messages.schema.json", "application/schema+json"),
}

HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **SHARED_HEADERS}


def add_contract(app: Quart) -> None:
    """Add the routes."""
    folder = Path(__file__).parent
    for path, (name, content_type) in FILES.items():
        app.add_url_rule(path, name, file_view((folder / name).read_bytes(), content_type, HEADERS), methods=["GET"])
