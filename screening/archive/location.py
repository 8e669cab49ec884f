"""Where the files of records lie below an archive's root, and what their names tell of them."""

from __future__ import annotations

import posixpath
import re

HEADER_SUFFIX = ".hea"
SIGNAL_SUFFIXES = (".dat", ".mat", ".xyz")
OTHER_FORMATS = {
    ".xml": "xml",
    ".dcm": "dicom",
    ".scp": "scp",
    ".edf": "edf",
    ".h5": "hdf5",
    ".hdf": "hdf5",
    ".hdf5": "hdf5",
    ".csv": "csv",
    ".npy": "npy",
}
"""Suffix of a file that is a record by itself -> its format, until its bytes have told."""
SIDECAR_FORMATS = ("csv", "npy", "hdf5")
"""Formats that state neither unit nor rate: their files are records where a sidecar does."""
PACKED_SUFFIX = ".gz"
_NO_RECORDS = re.compile(
    r"\.(?:atr|bat|bmp|bz2|cfg|conf|css|db|docx?|gif|html?|ini|ipynb|jpe?g|js|jsonl?|log|md?|parquet|pdf|png|ps|py|qrs|r"
    r"|rst|rtf|sh|sha256|sql|svg|tar|tex|tgz|tiff?|toml|tsv|txt|xlsx?|xsd|xsl|xz|ya?ml|zip|zst)",
    re.IGNORECASE,
)
"""Suffixes of files that lie beside records and are none, which need not be looked into."""
_CONTAINERS = (".zip", ".tar", ".tgz", ".7z", ".rar")
_NO_NAMES = frozenset(
    ("RECORDS", "ANNOTATORS", "LICENSE", "README", "SHA256SUMS", "MD5SUMS", "CHANGELOG", "Makefile", "NOTICE")
)
MAX_PATH = 1_024  # what object stores take for a key


def safe_location(path: str) -> str | None:
    """Return a root-relative path in its one spelling, or None if it leaves the root."""
    if len(path) > MAX_PATH or "\0" in path or path.startswith("/") or "\\" in path or "://" in path:
        return None
    clean = posixpath.normpath(path)
    return None if clean in (".", "..") or clean.startswith("../") else clean


def location_of(path: str) -> tuple[str, str]:
    """Return the location of the file that opens a record, and its format, from a path with or without suffix.

    >>> location_of("a/1.XML.gz"), location_of("a/1.hea"), location_of("a/1"), location_of("a/all.hdf5#12")
    (('a/1.XML.gz', 'xml'), ('a/1.hea', 'wfdb'), ('a/1.hea', 'wfdb'), ('a/all.hdf5#12', 'hdf5'))
    """
    if (known := format_by_name(path)) is not None:
        return path, known
    stem, suffix = posixpath.splitext(path)
    if suffix == HEADER_SUFFIX or suffix in SIGNAL_SUFFIXES:
        return stem + HEADER_SUFFIX, "wfdb"
    return path + HEADER_SUFFIX, "wfdb"


def format_by_name(path: str) -> str | None:
    """Return the format that the suffix of a file which is a record by itself, or holds many, promises; else None."""
    stem, suffix = posixpath.splitext(file_of(path))
    if suffix.lower() == PACKED_SUFFIX:
        suffix = posixpath.splitext(stem)[1]
    return OTHER_FORMATS.get(suffix.lower())


def may_be_record(name: str, *, beside_headers: bool) -> bool:
    """Whether a file that no suffix tells to be a record may be one by its bytes: DICOM files often have no suffix.

    Signal files of WFDB are none, and texts hardly ever; in a folder without headers both are looked into.
    """
    stem, suffix = posixpath.splitext(name)
    if suffix.lower() == PACKED_SUFFIX:
        stem, suffix = posixpath.splitext(stem)
    if name.startswith(".") or stem in _NO_NAMES:
        return False
    if suffix in SIGNAL_SUFFIXES or suffix.lower() == ".txt":
        return not beside_headers
    return not _NO_RECORDS.fullmatch(suffix)


def member_of(location: str) -> str | None:
    """Return which of a file's records a location names, None where a file is a record.

    >>> member_of("exams/part-0.hdf5#1169160"), member_of("odd#name.hea")
    ('1169160', None)
    """
    file, _, member = location.rpartition("#")
    is_many = OTHER_FORMATS.get(posixpath.splitext(file)[1].lower()) == "hdf5"
    return member if is_many else None


def file_of(location: str) -> str:
    """Return the path of the file that a location is, or is within."""
    return location if member_of(location) is None else location.rpartition("#")[0]


def stem_of(location: str) -> str:
    """Return a location without its suffix."""
    return posixpath.splitext(location)[0]


def plain_id(location: str) -> str:
    """Return the record id of an archive that is public: the stem of a WFDB header, all of any other location."""
    return stem_of(location) if location.endswith(HEADER_SUFFIX) else location


def is_container(suffix: str) -> bool:
    """Whether a file is an archive itself, by its suffix."""
    return suffix.lower() in _CONTAINERS


def is_signal(suffix: str) -> bool:
    """Whether a file beside a header may be a signal of WFDB, by its suffix."""
    is_record = suffix == HEADER_SUFFIX or suffix.lower() in OTHER_FORMATS
    return bool(suffix) and not (is_record or _NO_RECORDS.fullmatch(suffix))
