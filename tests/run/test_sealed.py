"""Files that tell by themselves whether they are whole."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screening.run.sealed import footer_of, is_whole, results_bytes

TABLE = pa.table({"record_id": ["a", "b"] * 3, "probability": [0.1] * 6})
FOOTER = {"run_id": "0123456789abcdef", "shard": 0}


def test_any_bit_of_any_byte_counts() -> None:
    """Also those of the footer's own lengths, which make Arrow read less of it, or another part."""
    data = results_bytes(TABLE, footer=FOOTER)
    assert is_whole(data)
    assert footer_of(data) == FOOTER
    start = data.rindex(b"screening_sha256")
    its_name = range(start, start + len("screening_sha256"))  # under another name it is no seal, and all else is whole
    for at in range(len(data)):
        for bit in range(8):
            flipped = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            assert is_whole(flipped) is (None if at in its_name else False), (at, bit)


@pytest.mark.parametrize("cut", [0, 3, 8, 100, -100, -8, -1])
def test_a_file_that_was_cut_off_is_not_whole(cut: int) -> None:
    data = results_bytes(TABLE, footer=FOOTER)[:cut]
    assert is_whole(data) is False
    assert footer_of(data) is None


def test_a_file_without_a_seal_cannot_tell() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    assert is_whole(sink.getvalue().to_pybytes()) is None
