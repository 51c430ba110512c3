"""What readers with filters are owed is what the product's own filters say of the same records."""

import random
from urllib.parse import parse_qs

import pytest

from dispatcher.sansio.filter_dialect import read_parameters
from dispatcher.sansio.record_view import View
from dispatcher.sansio.records import Record, Records, TopicPartition
from tests.chaos import selections
from tests.chaos.selections import EVERYBODYS, NOBODYS, Selection

DRAWN = [selections.draw_selection(random.Random(seed)) for seed in range(60)]  # noqa: S311 - it has to be repeatable
RECORDS = 120


def view_of(offset: int) -> View:
    """The record at an offset, as the product sees it."""
    tenant = selections.tenant_of(offset)
    headers = () if tenant is None else (("tenant", tenant.encode()),)
    record = Record(offset, 1, selections.key_of(offset).encode(), selections.value_of(offset), headers)
    return View(TopicPartition("assets", 0), Records.of([record])).at(0)


@pytest.mark.parametrize("selection", [NOBODYS, EVERYBODYS, *DRAWN], ids=lambda one: one.query)
def test_what_a_reader_is_owed_is_what_its_filter_matches(selection: Selection) -> None:
    """The judge and the filter agree, on some but not all records."""
    chosen = read_parameters(parse_qs(selection.query.removeprefix("&")))
    assert chosen is not None
    matches = chosen.compile()
    found = [offset for offset in range(RECORDS) if matches(view_of(offset))]
    assert found == [offset for offset in range(RECORDS) if selection.wants(offset)]
    assert 0 < len(found) < RECORDS
    assert selection is NOBODYS or not any(map(selections.is_nobodys, found))
