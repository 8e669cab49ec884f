from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from screening.archive.store import CATALOG_SCHEMA
from screening.run.plan import _RECORD_COLUMNS, _rows_digest, load_plan, make_plan, read_shard, store_plan
from screening.settings import RunSettings
from screening.storage import Folder
from tests.published import write_catalog

SCHEMA = pa.schema([CATALOG_SCHEMA.field(name) for name in _RECORD_COLUMNS])

_text = st.text(max_size=3)
_values: dict[str, st.SearchStrategy[Any]] = {
    "record_id": _text,
    "version": _text,
    "bytes": st.integers(0, 2**40),
    "acquired_at": st.none() | st.datetimes(datetime(1950, 1, 1), datetime(2050, 1, 1)),
    "age": st.none() | st.floats(0, 120, width=32),
    **{name: st.none() | _text for name in ("patient_key", "sex", "site", "device")},
}
rows = st.lists(st.fixed_dictionaries(_values), min_size=1, max_size=12)


def batch(of: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(of, schema=SCHEMA)


@given(rows, st.lists(st.integers(0, 12), max_size=4))
def test_the_digest_of_rows_does_not_depend_on_how_they_are_cut(of: list[dict[str, Any]], cuts: list[int]) -> None:
    whole = batch(of)
    ends = [0, *sorted(min(cut, len(of)) for cut in cuts), len(of)]
    pieces = [whole.slice(a, b - a) for a, b in zip(ends, ends[1:], strict=False)]  # with offsets, and empty ones
    copied = [batch(piece.to_pylist()) for piece in pieces]
    assert _rows_digest([whole]) == _rows_digest(pieces) == _rows_digest(copied)
    assert _rows_digest([whole])[1] == len(of)


@given(rows, rows)
@example(
    [dict.fromkeys(_RECORD_COLUMNS) | {"record_id": "ab", "version": "1", "bytes": 1}],
    [dict.fromkeys(_RECORD_COLUMNS) | {"record_id": "ab", "version": "1", "bytes": 1, "site": ""}],
)
def test_other_rows_have_another_digest(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    same = batch(one).equals(batch(other))
    assert (_rows_digest([batch(one)]) == _rows_digest([batch(other)])) == same


@pytest.mark.parametrize("column", _RECORD_COLUMNS)
def test_every_column_and_null_itself_is_in_the_digest(column: str) -> None:
    plain: dict[str, Any] = {"record_id": "r", "version": "v", "bytes": 7, "patient_key": "p", "age": 50.0}
    plain |= {"sex": "male", "site": "A", "device": "D", "acquired_at": datetime(2020, 1, 1)}
    plain |= {"qrs_ms": 96.0, "paced": True, "lbbb": True, "wpw": True}
    zero = {"bytes": 0, "age": 0.0, "acquired_at": datetime(1970, 1, 1), "qrs_ms": 0.0}.get(column, "")
    zero = False if column in ("paced", "lbbb", "wpw") else zero
    digests = {_rows_digest([batch([plain, plain | {column: value}])]) for value in (plain[column], zero, None)}
    assert len(digests) == 3


def test_a_value_that_moves_to_its_neighbour_changes_the_digest() -> None:
    base: dict[str, Any] = dict.fromkeys(_RECORD_COLUMNS) | {"version": "v", "bytes": 7}

    def digest(*ids: str) -> tuple[str, int]:
        return _rows_digest([batch([base | {"record_id": name} for name in ids])])

    assert len({digest("ab", "c"), digest("a", "bc"), digest("c", "ab")}) == 3


def test_a_run_goes_on_as_it_was_planned_whatever_shards_are_asked_for_today(tmp_path: Path) -> None:
    """Cut anew, records of shards that are done would be in others too, or in none."""
    catalog = write_catalog(tmp_path / "catalog", [{"record_id": f"r{n}"} for n in range(7)])
    inputs: dict[str, Any] = {"model": {"bundle_sha256": "b"}, "donor_set": None, "settings": RunSettings()}
    before, today = (make_plan(catalog, **inputs, quality={}, fingerprint={}, shard_records=size) for size in (3, 2))
    assert before.run_id == today.run_id
    run = Folder(str(tmp_path / "run"))
    store_plan(run, catalog, before)
    assert store_plan(run, catalog, today) == load_plan(run)
    assert (load_plan(run).shards, load_plan(run).shard_records) == (3, 3)
    assert [read_shard(run, shard).num_rows for shard in range(before.shards)] == [3, 3, 1]
