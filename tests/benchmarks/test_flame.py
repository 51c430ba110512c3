"""Flame graphs are pictures of a load, not of a machine."""

from benchmarks.flame import retitled


def test_the_title_of_a_flame_graph_is_its_load() -> None:
    """py-spy writes its own command line there; other texts stay."""
    svg = '<svg><text id="title" x="50%" y="24">/opt/bin/py-spy record</text><text id="details"> </text></svg>'
    expected = '<svg><text id="title" x="50%" y="24">10 subscribers</text><text id="details"> </text></svg>'
    assert retitled(svg, "10 subscribers") == expected
