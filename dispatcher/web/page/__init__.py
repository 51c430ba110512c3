"""The live page at ``/``, and ``/client.js``, which it uses: the files in this folder, served unchanged.

Browsers ask each time whether a file has changed (``no-cache``), and are answered with 304 when it has not, so a page
and its scripts are always of the same version.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from quart import Quart, request
from quart_trio.wrappers import TrioResponse

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/client.js": ("client.js", "text/javascript; charset=utf-8"),
    "/client.d.ts": ("client.d.ts", "text/plain; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "records", "detail", "plots", "status", "timeline", "times", "filter_box", "badge")
    },
}

HEADERS = {
    # Records are shown as text. Were one ever taken for markup, it could not run or fetch anything.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

SHARED = {"/client.js", "/client.d.ts"}
"""What pages of other origins may import."""

SHARED_HEADERS = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


def add_page(app: Quart) -> None:
    """Add the routes."""
    folder = Path(__file__).parent
    for path, (name, content_type) in FILES.items():
        headers = {**HEADERS, **(SHARED_HEADERS if path in SHARED else {})}
        app.add_url_rule(path, name, file_view((folder / name).read_bytes(), content_type, headers), methods=["GET"])


def file_view(body: bytes, content_type: str, headers: Mapping[str, str]) -> Callable[[], TrioResponse]:
    """A view that serves a file, and answers 304 when the client has it."""
    etag = sha256(body).hexdigest()[:32]
    headers = {**headers, "ETag": f'"{etag}"'}

    def view() -> TrioResponse:
        # Compared weakly, as RFC 9110 (section 13.1.2) requires: proxies that compress weaken the tag.
        if request.if_none_match.contains_weak(etag):
            return TrioResponse(b"", 304, headers)
        return TrioResponse(body, headers=headers, content_type=content_type)

    return view
