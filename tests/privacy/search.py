"""Finds words in everything that a folder holds, however they are written and packed."""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import re
import sqlite3
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")


@lru_cache
def forms(word: str) -> set[bytes]:
    """Return the ways in which bytes with ASCII capitals folded may spell a word."""
    found: set[bytes] = set()
    for text in (word, word.upper()):  # a capital beyond ASCII has bytes of its own
        plain = {text, text.replace(" ", "_"), json.dumps(text)[1:-1], html.escape(text), urllib.parse.quote(text)}
        plain |= {urllib.parse.quote_plus(text), "".join(f"%{byte:02x}" for byte in text.encode())}
        plain |= {text.encode().hex(), ascii(text)[1:-1], ascii(text.encode())[2:-1]}
        found |= {form.encode(code).lower() for form in plain for code in ("utf-8", "utf-16-le", "utf-16-be")}
        found.add(text.encode("latin-1").lower())
    return found


@lru_cache
def encoded(word: str) -> set[bytes]:
    """Return the Base64 of a word wherever it may begin in what was encoded; case counts."""
    found = set()
    for text in (word, word.upper(), word.lower()):
        for code in ("utf-8", "utf-16-le"):
            for shift in range(3):
                data = base64.b64encode(b"\0" * shift + text.encode(code))
                # Without the characters that the bytes before and after have a share in.
                found.add(data[-(-8 * shift // 6) : (8 * (shift + len(text.encode(code)))) // 6])
    return found | {each.replace(b"+", b"-").replace(b"/", b"_") for each in found}


def hits(data: bytes, words: Mapping[str, str]) -> set[str]:
    """Return the names of the words that some bytes hold."""
    folded = data.lower()
    return {
        name
        for name, word in words.items()
        if any(form in folded for form in forms(word)) or any(form in data for form in encoded(word))
    }


def search(folder: Path, words: Mapping[str, str]) -> dict[str, set[str]]:
    """Return where in a folder words are found: place -> names of words. Names of files and links count too."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        places = [(name, str(path.readlink()).encode())] if path.is_symlink() else []
        places.append((f"name of {name}", name.encode("utf-8", "surrogateescape")))
        if path.is_file() and not path.is_symlink():
            places += unpacked(path.read_bytes(), name)
        for place, data in places:
            if of := hits(data, words):
                found.setdefault(place, set()).update(of)
    return found


def unpacked(data: bytes, name: str, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield (place, bytes) of a file and of all that is packed in it."""
    yield name, data
    if depth > 3:
        return
    if data[:4] == b"PAR1":
        yield f"{name} (Parquet)", _parquet(data)
    elif data[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(data), f"{name} (gzip)", depth + 1)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for member in packed.namelist():
                yield from unpacked(packed.read(member), f"{name} ({member})", depth + 1)
    elif data[:16] == b"SQLite format 3\0":
        yield f"{name} (sqlite)", _sqlite(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield f"{name} (PNG)", repr(Image.open(io.BytesIO(data)).info).encode()
    elif data[:1] == b"\x78" and data[1:2] in b"\x01\x5e\x9c\xda":
        try:
            yield from unpacked(zlib.decompress(data), f"{name} (zlib)", depth + 1)
        except zlib.error:
            return
    else:  # text may hold pictures and archives as Base64
        for run in _BASE64.findall(data):
            content = _decoded(run)
            if content[:4] in (b"PAR1", b"PK\x03\x04") or content[:2] == b"\x1f\x8b" or content[1:4] == b"PNG":
                yield from unpacked(content, f"{name} (Base64)", depth + 1)


def _decoded(run: bytes) -> bytes:
    try:
        return base64.b64decode(run + b"=" * (-len(run) % 4), altchars=b"-_" if b"-" in run or b"_" in run else None)
    except ValueError:
        return b""


def _parquet(data: bytes) -> bytes:
    file = pq.ParquetFile(io.BytesIO(data))
    out = io.StringIO()
    print(file.schema_arrow, file.schema_arrow.metadata, file.metadata.metadata, file=out)
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            print(file.metadata.row_group(group).column(column).statistics, file=out)
    for batch in file.iter_batches():
        for column in batch.columns:
            if column.type in ("string", "binary", "large_string") or column.type.num_fields:
                print("\n".join(str(value) for value in column.to_pylist()), file=out)
    return out.getvalue().encode("utf-8", "surrogateescape")


def _sqlite(data: bytes) -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.deserialize(data)
        database.text_factory = bytes
        return b"\n".join(
            repr(value).encode() if not isinstance(value, bytes) else value
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for row in database.execute(f'SELECT * FROM "{table.decode()}"')
            for value in row
        )
