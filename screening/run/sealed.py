"""Parquet files that show by themselves, to the last byte, whether they are as they were written: results and plans."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_FACTS, _SEAL = b"screening", b"screening_sha256"
_UNSEALED = b"0" * 64
UNSEALED = {_SEAL.decode(): _UNSEALED.decode()}
"""Metadata of a file that is to be `sealed`."""


def results_bytes(results: pa.Table, *, footer: dict[str, Any]) -> bytes:
    """Return a results file: the same bytes for the same rows and footer, whoever writes it.

    ``footer`` stands as JSON in the Parquet footer, and beside them the SHA-256 of the file as it is with 64 zeros in the
    place of that hash: a run that goes on can so tell a whole file from a damaged one, before any manifest says its hash.
    """
    sink = io.BytesIO()
    metadata = {_FACTS: json.dumps(footer).encode(), _SEAL: _UNSEALED}
    table = results.replace_schema_metadata({**(results.schema.metadata or {}), **metadata})
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, results.num_rows), use_dictionary=True)
    return sealed(sink.getvalue())


def sealed(data: bytes) -> bytes:
    """Return a Parquet file, whose footer has `UNSEALED` among its metadata, with its own hash in that place."""
    before, found, after = data.rpartition(_UNSEALED)
    if not found:
        raise AssertionError("the footer does not hold what was put into it")
    return before + hashlib.sha256(data).hexdigest().encode() + after


def is_whole(data: bytes) -> bool | None:
    """Whether a Parquet file is, to the last byte, as it was `sealed`; None where no seal stands in it."""
    try:
        seal = (pq.read_metadata(pa.BufferReader(data)).metadata or {}).get(_SEAL)
    except (ValueError, OSError, pa.ArrowException):  # a damaged footer may ask for what Arrow does not have
        return False
    if seal is None:  # none was ever put in, or a damaged footer hides it
        return False if _SEAL in data else None
    if len(seal) != len(_UNSEALED):  # a damaged footer may say that it is shorter, or empty
        return False
    before, found, after = data.rpartition(seal)
    return bool(found) and hashlib.sha256(before + _UNSEALED + after).hexdigest().encode() == seal


def footer_of(data: bytes) -> dict[str, Any] | None:
    """Return what `results_bytes` was given as footer; None where a byte of it is not as it was written."""
    if not is_whole(data):
        return None
    try:
        footer: dict[str, Any] = json.loads(pq.read_metadata(pa.BufferReader(data)).metadata[_FACTS])
    except (KeyError, ValueError):
        return None
    return footer
