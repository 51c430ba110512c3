"""A certificate for 127.0.0.1, and clients that trust it."""

import ssl
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trustme

_folder = TemporaryDirectory(prefix="certificate-")
"""Lives as long as the process."""


class Certificate(NamedTuple):
    """What a replica is set to, and what its clients are."""

    settings: dict[str, str]
    client: ssl.SSLContext
    server: ssl.SSLContext
    """For servers in the tests' own process."""


@cache
def certificate() -> Certificate:
    """The one of this run; its key is in the same file."""
    authority = trustme.CA()
    path = Path(_folder.name) / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    return Certificate({"tls_certificate": str(path)}, client, server)
