"""Formats of which one file is one record: told by what the bytes are, never by a suffix.

A format is a module of this package with the four names of `Format`. Optional libraries are imported where they are used, so
that an archive without DICOM needs no pydicom.
"""

from __future__ import annotations

import hashlib
import zlib
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from screening.archive.container import Refused
from screening.archive.formats import aecg, cardiosoft, dicom, edf, muse, scp, sierra
from screening.archive.formats.missing import Missing
from screening.archive.leads import Leads, trim_ends
from screening.contract import MAX_RECORD_BYTES, Reason
from screening.recording import Recording, Rejected

if TYPE_CHECKING:
    from screening.archive.facts import Facts


class Format(Protocol):
    """What a module of this package offers."""

    NAME: str
    """In a catalog's ``format`` and in ``source_format``, for example "dicom"."""

    def looks_like(self, head: bytes) -> bool:
        """Whether a file that begins with ``head``, its first `HEAD` bytes or all of it, is of this format."""

    def read(self, data: bytes) -> Leads:
        """Return the leads of the rhythm strip, with what is added at its ends; Refused says why there are none."""

    def facts(self, data: bytes) -> Facts:
        """Return what the file states about its record; Refused, or ValueError, where it cannot be understood."""


HEAD = 2**16
"""Bytes of a file that tell its format."""
GZIP = b"\x1f\x8b\x08"
MAX_STATED_BYTES = 16 * 2**20
"""Of a file that is a record by itself, so much is read for what it states: XML and DICOM hold that beside the samples."""

_MODULES: tuple[ModuleType, ...] = (muse, cardiosoft, sierra, aecg, dicom, scp, edf)
FORMATS = tuple(cast(Format, module) for module in _MODULES)


def format_of(head: bytes) -> Format | None:
    """Return the format of a file by its first bytes, packed by gzip or not; None where no module here knows it."""
    head = _unpacked_beginning(head[:HEAD]) if head.startswith(GZIP) else head[:HEAD]
    return next((known for known in FORMATS if known.looks_like(head)), None)


def is_known(data: bytes) -> bool:
    """Whether a file is a record by itself."""
    return format_of(data) is not None


def unpacked(data: bytes, limit: int) -> bytes:
    """Return the first ``limit`` bytes that gzip packed in ``data``, as far as it goes; Refused where it is damaged."""
    packed = zlib.decompressobj(wbits=31)
    try:
        return packed.decompress(data, limit)
    except zlib.error:
        raise Refused(Reason.UNDECODABLE, "the file cannot be unpacked") from None


def _unpacked_beginning(data: bytes) -> bytes:
    """Return what gzip packed in the beginning of a file, up to where that is damaged."""
    packed, out = zlib.decompressobj(wbits=31), b""
    with suppress(zlib.error):
        for at in range(0, len(data), 512):
            out += packed.decompress(data[at : at + 512], HEAD - len(out))
            if len(out) >= HEAD or packed.eof:
                break
    return out


def facts(data: bytes) -> Facts | None:
    """Return what a file states about its record, None where it cannot be understood, or states it in too many bytes."""
    try:
        whole = unpacked(data, MAX_STATED_BYTES + 1) if data.startswith(GZIP) else data
        known = format_of(whole) if len(whole) <= MAX_STATED_BYTES else None
        return replace(known.facts(whole), in_words=True) if known else None
    except Exception:  # whatever is wrong, the run says it in the record's row
        return None


def decode(record_id: str, data: bytes) -> Recording | Rejected:
    """Decode the one file of a record.

    Returns
    -------
    A Recording with float32 millivolts (12, samples), or a Rejected whose detail says what is wrong in numbers and names of
    leads. No bytes make it raise; OSError and MemoryError, which say something of the machine, come through.

    Notes
    -----
    ``sha256`` covers the bytes as they lie in the archive. Flags: "derived_leads", "duplicate_lead", "calibration_removed",
    "padding_removed".
    """
    sha256 = hashlib.sha256(data).hexdigest()
    name = None
    try:
        if data.startswith(GZIP):
            data = unpacked(data, MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the record has more than {MAX_RECORD_BYTES} bytes")
        known = format_of(data)
        if known is None:
            raise Refused(Reason.UNKNOWN_FORMAT, "no reader here knows this file")
        name = known.NAME
        leads = trim_ends(known.read(data))
        if not leads.signal_mV.shape[1]:
            raise Refused(Reason.TOO_SHORT, "the record holds no samples")
        return Recording(
            record_id,
            leads.signal_mV,
            leads.rate_hz,
            sha256,
            "+".join(sorted(leads.formats)),
            " and ".join(sorted(leads.unit_sources)),
            tuple(sorted(leads.flags)),
        )
    except Refused as refused:
        return Rejected(record_id, refused.reason, refused.detail, sha256, name)
    except Missing as missing:
        return Rejected(record_id, Reason.UNKNOWN_FORMAT, str(missing), sha256, name)
    except (OSError, ImportError, MemoryError):
        raise  # the machine's fault, which says nothing of the record
    except Exception as error:
        return Rejected(record_id, Reason.UNDECODABLE, f"the decoder failed: {type(error).__name__}", sha256, name)
