"""The search itself: a word is found however it is written and packed, and other words are not."""

from __future__ import annotations

import base64
import gzip
import io
import sqlite3
import urllib.parse
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.privacy.search import search

WORD = "Wilhelmüne Q."


def as_zip(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/b.txt", data)
    return stream.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def as_sqlite() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (?)", [WORD])
        return database.serialize()


# By name, so that every process of the tests calls them the same: compressed bytes hold the second in which they were made.
WRITTEN = {
    "plain": WORD.encode(),
    "capitals": WORD.upper().encode(),
    "latin-1": WORD.encode("latin-1"),
    "utf-16, shifted": ("x" + WORD).encode("utf-16"),
    "percent": urllib.parse.quote(WORD).encode(),
    "percent and plus": urllib.parse.quote_plus(WORD).encode(),
    "percent, every byte": "".join(f"%{byte:02X}" for byte in WORD.encode()).encode(),
    "hex": WORD.encode().hex().encode(),
    "json": rb'{"name": "Wilhelm\u00fcne Q."}',
    **{f"base64, {shift} before": base64.b64encode(b"." * shift + WORD.encode() + b"...") for shift in range(3)},
    "base64 of capitals": base64.b64encode(WORD.upper().encode()),
    "gzip": gzip.compress(WORD.encode()),
    "zip": as_zip(WORD.encode()),
    "zip of gzip": as_zip(gzip.compress(WORD.encode())),
    "data URL": b"<img src='data:;base64," + base64.b64encode(as_zip(WORD.encode())) + b"'>",
    "parquet": as_parquet(pa.table({"a": [WORD] * 100})),
    "parquet, in a list": as_parquet(pa.table({"a": [["b", WORD]]})),
    "parquet, in metadata": as_parquet(pa.table({"a": [1]}).replace_schema_metadata({"b": WORD})),
    "parquet, as a column": as_parquet(pa.table({WORD: [1]})),
    "sqlite": as_sqlite(),
}


@pytest.mark.parametrize("data", WRITTEN.values(), ids=WRITTEN)
def test_a_word_is_found_however_it_is_written(tmp_path: Path, data: bytes) -> None:
    packed = data[:4] in (b"PAR1", b"PK\x03\x04", b"SQLi") or data[:2] == b"\x1f\x8b"
    (tmp_path / "file").write_bytes(data if packed else b"before " + data + b" after")
    found = search(tmp_path, {"name": WORD})
    assert found
    assert set.union(*found.values()) == {"name"}
    assert search(tmp_path, {"name": "Wilhelmine Q."}) == {}


def test_names_of_files_and_targets_of_links_count(tmp_path: Path) -> None:
    (tmp_path / WORD).mkdir()
    (tmp_path / "link").symlink_to(f"/tmp/{WORD}")
    assert search(tmp_path, {"name": WORD}) == {f"name of {WORD}": {"name"}, "link": {"name"}}
