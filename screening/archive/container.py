"""Which container some bytes are, told by what they hold and never by a suffix; and how decoders refuse a record."""

from __future__ import annotations

import struct
from typing import NamedTuple

from screening.contract import Reason


class Refused(Exception):
    """Ends the decoding of one record; the doors of this package turn it into a ``Rejected``.

    ``detail`` holds numbers and names of leads only: what a header says may be a patient's name.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


# (offset, magic bytes, what it is). Each is defined by the format's own specification; WFDB has no magic.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"PK\x03\x04", "zip"),
    (4, b"1AY&SY", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard"),
    (0, b"fLaC", "FLAC"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 or MATLAB 7.3"),
    (0, b"MATLAB 5.0 MAT-file", "MATLAB 5"),
    (0, b"\0\0\x04\x06\0\0", "big-endian MATLAB 4"),
    (0, b"%PDF-", "PDF"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"0       ", "EDF"),
    (128, b"DICM", "DICOM"),
    (16, b"SCPECG", "SCP-ECG"),
)


def container_of(data: bytes) -> str | None:
    """Return the name of the container that ``data`` begins as, or None where no magic bytes are known.

    >>> container_of(bytes.fromhex("1f8b0800")), container_of(b'<?xml version="1.0"?>'), container_of(b"r 12 500")
    ('gzip', 'XML', None)
    """
    for offset, magic, name in _MAGIC:
        if data.startswith(magic, offset):
            return name
    text = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    return "XML" if text.startswith((b"<?xml", b"<!DOCTYPE")) else None


class Matrix(NamedTuple):
    """The one matrix of a MATLAB level 4 file."""

    rows: int
    columns: int
    bytes_per_value: int
    offset: int  # of the first value, in bytes


# Level 4 MAT-file format: the type MOPT has M=0 (little endian), O=0, P=precision, T=0 (full numeric matrix).
_BYTES_OF_TYPE = {0: 8, 10: 4, 20: 4, 30: 2, 40: 2, 50: 1}


def matlab4_matrix(data: bytes) -> Matrix | None:
    """Return the matrix of a MATLAB level 4 file, or None if ``data`` is not exactly one such matrix."""
    if len(data) < 22:
        return None
    kind, rows, columns, imaginary, name_length = struct.unpack_from("<5I", data)
    size = _BYTES_OF_TYPE.get(kind)
    if size is None or imaginary or not 2 <= name_length <= 64:
        return None
    offset = 20 + name_length
    if offset + rows * columns * size != len(data) or data[offset - 1] != 0:
        return None
    return Matrix(rows, columns, size, offset)
