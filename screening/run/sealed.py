"""Results files that show by themselves, to the last byte, whether they are as they were written."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_FACTS, _SEAL = b"screening", b"screening_sha256"
_UNSEALED = b"0" * 64


def results_bytes(results: pa.Table, *, footer: dict[str, Any]) -> bytes:
    """Return a results file: the same bytes for the same rows and footer, whoever writes it.

    ``footer`` stands as JSON in the Parquet footer, and beside them the SHA-256 of the file as it is with 64 zeros in the
    place of that hash: a run that goes on can so tell a whole file from a damaged one, before any manifest says its hash.
    """
    sink = io.BytesIO()
    metadata = {_FACTS: json.dumps(footer).encode(), _SEAL: _UNSEALED}
    table = results.replace_schema_metadata({**(results.schema.metadata or {}), **metadata})
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, results.num_rows), use_dictionary=True)
    data = sink.getvalue()
    before, found, after = data.rpartition(_UNSEALED)
    if not found:
        raise AssertionError("the footer does not hold what was put into it")
    return before + hashlib.sha256(data).hexdigest().encode() + after


def footer_of(data: bytes) -> dict[str, Any] | None:
    """Return what `results_bytes` was given as footer; None where a byte of it is not as it was written."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
        footer: dict[str, Any] = json.loads(metadata[_FACTS])
        seal = metadata[_SEAL]
    except (KeyError, ValueError, OSError, pa.ArrowException):  # a damaged footer may ask for what Arrow does not have
        return None
    before, found, after = data.rpartition(seal)
    whole = bool(found) and hashlib.sha256(before + _UNSEALED + after).hexdigest().encode() == seal
    return footer if whole else None
