"""The names on the command line are those that its help lists."""

from tests.chaos.__main__ import main
from tests.chaos.beside import EXPLAINED, Name
from tests.chaos.schedule import Kind


def test_what_is_listed_can_be_asked_for() -> None:
    """Every event and companion that is listed can be selected by its name."""
    arguments = [word for name in Name for word in ("--beside", str(name))]
    arguments += [word for kind in Kind for word in ("--only", kind.option)]
    parameters = main.make_context("chaos", arguments).params
    assert parameters["beside"] == tuple(map(str, Name))
    assert parameters["only"] == tuple(kind.option for kind in Kind)
    assert set(EXPLAINED) == set(Name)
