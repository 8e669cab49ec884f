"""Parquet that somebody else wrote, read without believing it: a file of kilobytes may stand for more than memory holds.

Its layout is Apache Parquet's (https://parquet.apache.org/docs/file-format/): the last 8 bytes are the length of the footer
and "PAR1"; the footer is a Thrift structure, whose first two fields are the version and the list of schema elements.
"""

from __future__ import annotations

import os
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.archive.parquet_footer import values_of_groups

MAX_SCHEMA_ELEMENTS = 4_096
"""Columns and levels of nesting together. Arrow's reader calls itself for each level, and 20,000 of them end the process."""
MAX_LEVELS = 32
MAX_FOOTER_BYTES = 64 * 2**20
MAX_BATCH_BYTES = 64 * 2**20
"""Text of one column that a batch may hold: 16 kB a row."""
MAX_ELEMENTS = 1_024
"""Elements a row that a column of lists may hold, on average."""
MAX_FIXED_BYTES = 256


def open_parquet(stream: IO[bytes]) -> pq.ParquetFile:
    """Open a Parquet file whose text columns come as dictionaries, so that a text that is repeated is held once.

    Raises
    ------
    ValueError or ArrowException
        It is no Parquet, or one that claims what no table of records has; the message quotes nothing of it.
    """
    check_schema(stream)
    metadata = pq.read_metadata(stream)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    if any(leaf.max_definition_level > MAX_LEVELS for leaf in leaves):
        raise ValueError(f"its columns are nested more than {MAX_LEVELS} deep")
    if any(leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > MAX_FIXED_BYTES for leaf in leaves):
        raise ValueError(f"it has a column of values of more than {MAX_FIXED_BYTES} bytes")
    for rows, values in values_of_groups(_footer(stream)):
        if any(count > MAX_ELEMENTS * rows for count in values):
            raise ValueError(f"it has a column with more than {MAX_ELEMENTS} elements a row")
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    stream.seek(0)
    return pq.ParquetFile(stream, metadata=metadata, read_dictionary=texts)


def values_of(column: pa.Array, *, lists: bool = False) -> list[Any] | None:
    """Return a column's values as text, or with ``lists`` also as lists of text; None where it holds neither.

    Raises
    ------
    ValueError or ArrowException
        The values are too large together, or no text.
    """
    if not pa.types.is_nested(column.type):
        _check_size(column)
        texts: list[Any] = column.cast(pa.string()).to_pylist()
        return texts
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (lists and is_list) or pa.types.is_nested(column.type.value_type):
        return None
    _check_size(column.flatten())
    elements: list[Any] = column.to_pylist()
    return elements


def _check_size(column: pa.Array) -> None:
    if not pa.types.is_dictionary(column.type):
        return
    text = pa.types.is_string(column.type.value_type) or pa.types.is_large_string(column.type.value_type)
    if text or pa.types.is_binary(column.type.value_type) or pa.types.is_large_binary(column.type.value_type):
        size = pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
        if size > MAX_BATCH_BYTES:
            raise ValueError(f"some rows hold {size} bytes of text, the limit is {MAX_BATCH_BYTES}")


def _footer(stream: IO[bytes]) -> bytes:
    """Return the footer of a file that `check_schema` passed."""
    end = stream.seek(-8, os.SEEK_END)
    length = int.from_bytes(stream.read(4), "little")
    stream.seek(end - length)
    return stream.read(length)


def check_schema(stream: IO[bytes]) -> None:
    """Raise ValueError where the schema is larger than any table's; what is no Parquet at all, Arrow tells."""
    size = stream.seek(0, os.SEEK_END)
    if size < 12:
        raise ValueError("it is no Parquet file")
    stream.seek(size - 8)
    tail = stream.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > size - 8:
        raise ValueError("it is no Parquet file, or has lost its end")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"its footer has {length} bytes, the limit is {MAX_FOOTER_BYTES}")
    stream.seek(size - 8 - length)
    start = stream.read(min(length, 16))
    stream.seek(0)
    # Thrift's compact protocol: field 1 (i32, a varint of one byte), then field 2: a list of structures, whose number stands
    # beside their type, or as a varint after it where it is above 14. All writers keep this order.
    if len(start) < 6 or start[0] != 0x15 or start[1] > 0x7F or start[2] != 0x19 or start[3] & 0x0F != 0x0C:
        raise ValueError("its footer does not begin as a Parquet file's does")
    elements, shift = start[3] >> 4, 0
    if elements == 15:
        elements = 0
        for octet in start[4:9]:
            elements |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
    if elements > MAX_SCHEMA_ELEMENTS:
        raise ValueError(f"its schema has {elements} elements, the limit is {MAX_SCHEMA_ELEMENTS}")
