"""WFDB records: bytes in, a Recording or the reason why there is none; pure, and fast enough for archives of millions.

A record is a text header and the files it names. Only the twelve leads matter here: other signals, and files that hold
only such, are neither read nor verified. Multi-segment records are put together from segments that each pass the same
checks. References: WFDB applications guide, header(5) and signal(5) (https://physionet.org/physiotools/wag/).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from screening.archive.container import Refused
from screening.archive.leads import Leads, require_independent, trim_ends
from screening.archive.wfdb_header import Header, Segment, comments, parse
from screening.archive.wfdb_signals import decode_leads
from screening.contract import MAX_RECORD_BYTES, N_LEADS, Reason
from screening.recording import Recording, Rejected

__all__ = ["comments", "decode", "signal_file_names"]


def signal_file_names(header: bytes, files: Mapping[str, bytes] | None = None) -> tuple[str, ...]:
    """Return the files that ``decode`` needs beside the header, relative to its folder, in the order of their hashing.

    Parameters
    ----------
    header
        Bytes of the record's header file.
    files
        What has been read so far. A multi-segment record first names the headers of its segments; called again with
        these, it names their signal files too. Read until nothing new is named.

    Raises
    ------
    Refused
        Where the header alone shows that there can be no Recording.
    """
    parsed = parse(header)
    if not parsed.segments:
        return _files_of(parsed)
    headers = dict.fromkeys(segment.header for segment in parsed.segments if segment.header != "~")
    names = dict(headers)
    for name in headers:
        if files and name in files:
            segment = parse(files[name])
            if segment.segments:
                raise Refused(Reason.BAD_HEADER, "a segment has segments of its own")
            names.update(dict.fromkeys(_folder(name) + file for file in _files_of(segment)))
    return tuple(names)


def decode(
    record_id: str, header: bytes, files: Mapping[str, bytes], *, as_stored: bool = False
) -> Recording | Rejected:
    """Decode one record.

    Parameters
    ----------
    record_id
        Goes into the result; nothing else is made of it.
    header
        Bytes of the header file.
    files
        Bytes of the files that ``signal_file_names`` names, by these names.
    as_stored
        Leave on what is added at the ends, see `trim_ends`.

    Returns
    -------
    A Recording with float32 millivolts (12, samples), NaN where a sample is marked as missing, or a Rejected whose
    detail says what is wrong in numbers and names of leads. No bytes make it raise; OSError and ImportError, which say
    something of the machine, come through.

    Notes
    -----
    ``sha256`` covers the header's bytes and then each needed file's, in order. Flags: "derived_leads" (computed from I
    and II), "duplicate_lead" (present twice, identical), "matlab_offset" (the MATLAB file, not the header, says where
    its samples begin), "trailing_bytes" (a file holds more than the header claims), "calibration_removed",
    "padding_removed".
    """
    sha256: str | None = None
    try:
        names = signal_file_names(header, files)
        absent = sum(name not in files for name in names)
        if absent:
            raise Refused(Reason.MISSING_FILE, f"{absent} of the {len(names)} files that the header names are absent")
        size = len(header) + sum(len(files[name]) for name in names)
        if size > MAX_RECORD_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the record has {size} bytes, the limit is {MAX_RECORD_BYTES}")
        digest = hashlib.sha256(header)
        for name in names:
            digest.update(files[name])
        sha256 = digest.hexdigest()
        parsed = parse(header)
        leads = _join(parsed, files) if parsed.segments else decode_leads(parsed, files)
        require_independent(leads.rows)
        if not as_stored:
            trim_ends(leads)
        if not leads.signal_mV.shape[1]:
            raise Refused(Reason.TOO_SHORT, "the record holds no samples")
        return Recording(
            record_id,
            leads.signal_mV,
            leads.rate_hz,
            sha256,
            "wfdb-" + "+".join(sorted(leads.formats)),
            " and ".join(sorted(leads.unit_sources)),
            tuple(sorted(leads.flags)),
        )
    except Refused as refused:
        return Rejected(record_id, refused.reason, refused.detail, sha256, "wfdb")
    except (OSError, ImportError, MemoryError):
        raise  # the machine's fault, which says nothing of the record
    except Exception as error:
        return Rejected(record_id, Reason.UNDECODABLE, f"the decoder failed: {type(error).__name__}", sha256, "wfdb")


def _files_of(header: Header) -> tuple[str, ...]:
    return tuple(dict.fromkeys([signal.file for signal in header.leads]))


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _join(header: Header, files: Mapping[str, bytes]) -> Leads:
    """Put the segments of a record together; gaps, and leads that a segment does not have, are NaN."""
    total = sum(segment.frames for segment in header.segments)
    gaps = sum(segment.frames for segment in header.segments if segment.header == "~")
    if 2 * gaps > total:
        # Also keeps a header of a few bytes from claiming hours that nothing stands behind.
        raise Refused(Reason.MISSING_SAMPLES, f"gaps between segments fill {gaps / total:.0%} of the record")
    parts: dict[int, Leads] = {}  # by the frame at which they begin
    decoded: dict[Segment, Leads] = {}  # a hostile header names one segment thousands of times
    start = read = 0
    for segment in header.segments:
        if segment.header != "~" and segment.frames:  # a segment of no length only describes the layout
            part = parse(files[segment.header])
            if part.frames not in (None, segment.frames):
                raise Refused(Reason.BAD_HEADER, "a segment's header states another length than the record's")
            part = part._replace(frames=segment.frames)
            if segment not in decoded:
                # Other segments may name the same file, which rare formats unpack whole each time.
                read += sum(len(files[_folder(segment.header) + name]) for name in _files_of(part))
                if read > MAX_RECORD_BYTES:
                    raise Refused(Reason.TOO_LARGE, f"the segments take {read} bytes, the limit is {MAX_RECORD_BYTES}")
                decoded[segment] = decode_leads(part, files, _folder(segment.header))
            parts[start] = decoded[segment]
        start += segment.frames
    if not parts:
        raise Refused(Reason.TOO_SHORT, "the record holds no samples")
    rates = {part.rate_hz for part in parts.values()}
    if len(rates) != 1:
        found = ", ".join(f"{rate:g}" for rate in sorted(rates))
        raise Refused(Reason.CONFLICTING_RATES, f"segments at {found} Hz")
    rate_hz = rates.pop()
    per_frame = round(rate_hz / header.rate_hz)
    if per_frame * header.rate_hz != rate_hz:
        raise Refused(Reason.CONFLICTING_RATES, f"segments at {rate_hz:g} Hz in a record of {header.rate_hz:g} Hz")
    signal = np.full((N_LEADS, total * per_frame), np.nan, np.float32)
    for start, part_leads in parts.items():
        stop = start * per_frame + part_leads.signal_mV.shape[1]
        signal[:, start * per_frame : stop] = part_leads.signal_mV
    return Leads(
        signal,
        rate_hz,
        rows=set().union(*(part.rows for part in parts.values())),
        formats=set().union(*(part.formats for part in parts.values())),
        unit_sources=set().union(*(part.unit_sources for part in parts.values())),
        flags=set().union(*(part.flags for part in parts.values())),
    )
