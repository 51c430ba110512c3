"""What clients offer: gzip by weight, permessage-deflate with its parameters."""

import pytest

from dispatcher.sansio.codings import accept_deflate, accepts_gzip

ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["GZIP"], True),
        (["x-gzip"], True),
        (["gzip, deflate, br, zstd"], True),
        (["deflate, br"], False),
        (["br;q=1.0, gzip;q=0.8, *;q=0.1"], True),
        (["br", "gzip"], True),
        (["*"], True),
        (["*;q=0"], False),
        (["*;q=0, gzip"], True),
        (["*, gzip;q=0"], False),
        (["gzip;q=0"], False),
        (["gzip; q=0.000"], False),
        (["gzip ; q = 0.001"], True),
        (["gzip;q=0.5, identity"], False),
        (["gzip;q=0.5, identity;q=0.5"], True),
        (["identity;q=0, gzip"], True),
        (["identity"], False),
        (["gzip, gzip;q=0"], False),
        (["gzip;q=2"], False),
        (["gzip;q=0.1234"], False),
        (["gzip;q=nan"], False),
        (["gzip;q="], False),
        (["gzip;level=9"], True),
        (["notgzip"], False),
        ([",, ,gzip,"], True),
    ],
)
def test_gzip_by_weight(fields: list[str], accepted: bool) -> None:
    """The weight decides; 0 and unreadable values mean no (RFC 9110, section 12.5.3)."""
    assert accepts_gzip(fields) is accepted


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ([], None),
        ([""], None),
        (["permessage-deflate"], ANSWER),
        (["Permessage-Deflate; Client_Max_Window_Bits"], ANSWER),
        (["permessage-deflate; client_max_window_bits"], ANSWER),
        (["permessage-deflate; client_max_window_bits=9"], ANSWER),
        (['permessage-deflate; client_max_window_bits="15"'], ANSWER),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], ANSWER),
        (["permessage-deflate;server_max_window_bits=15"], f"{ANSWER}; server_max_window_bits=15"),
        (["permessage-deflate; server_max_window_bits=14"], None),
        (["permessage-deflate; server_max_window_bits=8"], None),
        (["permessage-deflate; server_max_window_bits=10, permessage-deflate"], ANSWER),
        (["permessage-deflate; server_max_window_bits=10", "permessage-deflate"], ANSWER),
        (["x-webkit-deflate-frame, permessage-deflate"], ANSWER),
        (["x-webkit-deflate-frame"], None),
        (["permessage-bzip2"], None),
        (["permessage-deflate; server_max_window_bits"], None),
        (["permessage-deflate; server_max_window_bits=16"], None),
        (["permessage-deflate; server_max_window_bits=015"], None),
        (["permessage-deflate; client_max_window_bits=7"], None),
        (["permessage-deflate; client_max_window_bits="], None),
        (["permessage-deflate; server_no_context_takeover=1"], None),
        (["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
        (["permessage-deflate; unknown"], None),
        (["permessage-deflate; unknown=1"], None),
        (["permessage-deflate;"], None),
    ],
)
def test_deflate_without_context_takeover(fields: list[str], answer: str | None) -> None:
    """The first offer that can be kept is accepted; wrong ones and smaller windows are skipped."""
    assert accept_deflate(fields) == answer
