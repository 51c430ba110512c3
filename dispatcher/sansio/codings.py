"""What clients offer: content codings (RFC 9110) and WebSocket extensions (RFC 7692).

An unreadable offer counts as none: the stream is then sent uncompressed, which is always right.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

DEFLATE = "permessage-deflate"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_PARAMETER = re.compile(rf'({_TOKEN})(?:\s*=\s*("{_TOKEN}"|{_TOKEN}))?')
_WINDOW_BITS = re.compile(r"8|9|1[0-5]")


def accepts_gzip(fields: Iterable[str]) -> bool:
    """Whether a client accepts gzip and does not prefer no coding (RFC 9110, section 12.5.3).

    Args:
        fields: The values of its ``Accept-Encoding``.
    """
    weights: dict[str, float] = {}
    for item in ",".join(fields).split(","):
        coding, *parameters = [part.strip() for part in item.lower().split(";")]
        weight = _weight(parameters)
        if weight is not None:
            # The last one counts, which includes anything that a proxy has appended.
            weights["gzip" if coding == "x-gzip" else coding] = weight
    gzip = weights.get("gzip", weights.get("*", 0))
    return gzip > 0 and gzip >= weights.get("identity", 0)


def accept_deflate(fields: Iterable[str]) -> str | None:
    """Return the response to an offer of ``permessage-deflate``; None if no offer can be accepted.

    Neither side keeps a context between messages: the server because it sends all clients the same bytes, the client
    because otherwise the server would need some 40 KiB for each client. An offer that asks for a smaller window than
    the one that all clients share cannot be accepted, but another offer may follow it (RFC 7692, section 5.1).

    Args:
        fields: The values of the client's ``Sec-WebSocket-Extensions``.
    """
    for offer in ",".join(fields).split(","):
        name, *parameters = [part.strip() for part in offer.split(";")]
        if name.lower() != DEFLATE:
            continue
        asked = _asked(parameters)
        if asked is None or asked.get("server_max_window_bits", "15") != "15":
            continue
        answer = [DEFLATE, "server_no_context_takeover", "client_no_context_takeover"]
        if "server_max_window_bits" in asked:
            answer.append("server_max_window_bits=15")
        return "; ".join(answer)
    return None


def _weight(parameters: Iterable[str]) -> float | None:
    """Return the weight of a coding, which is 1 by default; None if it cannot be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _WEIGHT.fullmatch(value := value.strip()) else None
    return 1.0


def _asked(parameters: Iterable[str]) -> Mapping[str, str] | None:
    """Return the parameters of an offer; None if one of them is unknown, wrong, or repeated (RFC 7692, section 7)."""
    asked: dict[str, str] = {}
    for name, value in _pairs(parameters):
        if name in asked or not _is_valid(name, value):
            return None
        asked[name] = value or ""
    return asked


def _pairs(parameters: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        yield (match[1].lower(), match[2] and match[2].strip('"')) if match else ("", None)


def _is_valid(name: str, value: str | None) -> bool:
    if name in {"server_no_context_takeover", "client_no_context_takeover"}:
        return value is None
    if name == "client_max_window_bits" and value is None:
        return True
    is_window = name in {"server_max_window_bits", "client_max_window_bits"}
    return is_window and value is not None and _WINDOW_BITS.fullmatch(value) is not None
