from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screening.archive.parquet_footer import values_of_groups
from screening.archive.parquet_table import open_parquet


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def footer(file: bytes) -> bytes:
    length = int.from_bytes(file[-8:-4], "little")
    return file[-8 - length : -8]


TABLE = pa.table(
    {
        "number": pa.array(range(1000), pa.int64()),
        "text": [f"row {i}" for i in range(1000)],
        "list": pa.array([[1] * (i % 5) for i in range(1000)], pa.list_(pa.int32())),
        "struct": pa.array([{"a": i, "b": {"c": str(i)}} for i in range(1000)]),
        "flag": pa.array([i % 3 == 0 for i in range(1000)]),
    }
).replace_schema_metadata({"note": "x" * 300})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 90},
        {"version": "1.0", "compression": "none"},
        {"write_page_index": True, "store_schema": False},
    ],
)
def test_rows_and_values_are_those_that_pyarrow_tells(options: dict[str, object]) -> None:
    file = parquet(TABLE, **options)
    metadata = pq.read_metadata(io.BytesIO(file))
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    expected = [(group.num_rows, [group.column(i).num_values for i in range(group.num_columns)]) for group in groups]
    assert list(values_of_groups(footer(file))) == expected


def test_a_file_of_many_columns_too() -> None:
    file = parquet(pa.table({f"c{i}": [i, i] for i in range(200)}))
    assert list(values_of_groups(footer(file))) == [(2, [2] * 200)]


def test_a_damaged_footer_is_a_value_error_or_read() -> None:
    whole = footer(parquet(TABLE.slice(0, 20)))
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            with suppress(ValueError):
                list(values_of_groups(damaged))


def test_a_footer_that_ends_pyarrows_process_is_one_error(tmp_path: Path) -> None:
    """A level histogram of the wrong length; found by fuzzing. In a process of its own, because it was the end of it."""
    table = pa.table({"list": pa.array([["a"], ["b", "c"]], pa.list_(pa.string()))})
    good = parquet(table, compression="none")
    ends = 0
    for at in range(len(good) - 8 - len(footer(good)), len(good) - 8):
        bad = bytearray(good)
        bad[at] ^= 0x30
        (tmp_path / f"{at}.parquet").write_bytes(bad)
        ends += 1
    assert ends > 100
    opened = f"""
import sys
from pathlib import Path
import pyarrow as pa
from screening.archive.parquet_table import open_parquet
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        with path.open("rb") as stream:
            for batch in open_parquet(stream).iter_batches():
                batch.num_rows
    except (ValueError, OSError, pa.ArrowException):
        pass
print("lived")
"""
    done = subprocess.run([sys.executable, "-c", opened], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "lived\n", done.stderr


def test_elements_a_row_are_limited() -> None:
    table = pa.table({"list": pa.array([[1] * 5000, [2]], pa.list_(pa.int32()))})
    with pytest.raises(ValueError, match="more than 1024 elements a row"):
        open_parquet(io.BytesIO(parquet(table)))
