"""What is fuzzed: everything that reads bytes which somebody else wrote.

A target gets bytes and returns what became of them, in a word. It raises only where a promise is broken: an exception that is
neither a refusal nor a `UserError`, a message that holds a path, a path that leads out of the archive.
"""

from __future__ import annotations

import os
import posixpath
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from screening.archive import formats, wfdb
from screening.archive.container import Refused
from screening.archive.facts import as_id, parse_age, parse_codes, parse_time
from screening.archive.formats import sidecar
from screening.archive.headers import header_facts
from screening.archive.labels import LabelRule, read_settings
from screening.archive.location import location_of, safe_location, stem_of
from screening.archive.mapping import PTBXL, ColumnMapping, known_mapping
from screening.archive.metadata import MetadataTable
from screening.archive.version import is_changed
from screening.archive.wfdb_header import is_safe_path
from screening.contract import LEADS
from screening.errors import UserError
from tests import hospital_files
from tests.fuzz.archives import tar, tar_seeds, zip, zip_seeds
from tests.fuzz.hdf5 import SAID, hdf5, hdf5_said, hdf5_seeds
from tests.fuzz.judge import CUT, judged, tell
from tests.scp_files import scp_mended
from tests.wfdb_files import ecg, encode, matlab, record, signal_line

_SAMPLES = 100


@dataclass(frozen=True)
class Target:
    """Something that reads bytes."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], str]
    share: int  # of the inputs, against the other targets'
    seconds: float = 5.0  # that one input may take


def _decoded(header: bytes, contents: Sequence[bytes]) -> str:
    """Do as the reader does: ask which files are needed, give them, decode. The last content stands for all further files."""
    found: dict[str, bytes] = {}
    try:
        while new := [name for name in wfdb.signal_file_names(header, found) if name not in found]:
            for name in new:
                if not is_safe_path(name):
                    raise AssertionError(f"a file outside is asked for: {name!r}")
                found[name] = contents[min(len(found), len(contents) - 1)] if contents else b""
            if len(found) > 10_000:
                raise AssertionError("files without end are asked for")
    except Refused as refused:
        tell(refused.detail)
        return str(refused.reason)
    return judged(wfdb.decode("id", header, found))


def _hospital(data: bytes) -> str:
    """A file that is a record by itself: what it holds, and what it states."""
    facts = formats.facts(data)
    if facts is not None and facts.age is not None and not 0 <= facts.age <= 90:
        raise AssertionError(f"an age of {facts.age}")
    return judged(formats.decode("id", data))


def _numbers(data: bytes) -> str:
    """A table of numbers, and its sidecar behind it."""
    table, _, stated = data.partition(CUT)
    return judged(sidecar.decode("id", table, {sidecar.SIDECAR: stated}))


def _short(**options: Any) -> dict[str, bytes]:
    return record(digital=ecg(_SAMPLES), **options)


_FORMATS = (8, 16, 24, 32, 61, 80, 160, 212, 310, 311)


@cache
def _header_of(fmt: int) -> bytes:
    return _short(fmt=fmt)["r.hea"]


def _header(data: bytes) -> str:
    return _decoded(data, [_short()["r.dat"]])


def _samples(data: bytes) -> str:
    fmt = _FORMATS[data[0] % len(_FORMATS)] if data else 16
    return _decoded(_header_of(fmt), [data[1:]])


def _files(data: bytes) -> str:
    """Several files of one record: the header, and the others in the order in which it asks for them."""
    header, *rest = data.split(CUT)
    return _decoded(header, rest)


def _flac_seed() -> bytes:
    """Return a record in two FLAC files, which hold eight channels at most."""
    digital = ecg(_SAMPLES)
    lines = [f"r 12 500 {_SAMPLES}"]
    lines += [signal_line("r.flac" if at < 6 else "s.flac", "516", digital[at], lead) for at, lead in enumerate(LEADS)]
    return CUT.join(["\n".join(lines).encode(), encode(516, digital[:6]), encode(516, digital[6:])])


def _facts(data: bytes) -> str:
    unreadable: Counter[str] = Counter()
    facts = header_facts(data, unreadable, statement_texts=("myocardial infarction",))
    if facts.age is not None and not 0 <= facts.age <= 200:
        raise AssertionError(f"an age of {facts.age}")
    if facts.sex not in ("female", "male", None):
        raise AssertionError(f"a sex of {facts.sex!r}")
    return "facts" if facts.age or facts.sex or facts.statements else "none"


def _values(data: bytes) -> str:
    """Single cells of a table: ages, times, codes, ids."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_age, parse_time, as_id, lambda value: parse_codes(value.split(","))):
        try:
            parse(text)
        except ValueError:
            continue
    return "parsed"


def _table(data: bytes, name: str) -> str:
    fs = fsspec.filesystem("memory")
    path = f"/fuzz-{os.getpid()}/{name}"
    fs.pipe_file(path, data)
    try:
        table = MetadataTable(fs, path, name)
        mapping = known_mapping(table.columns) or PTBXL
        rows = sum(1 for _ in table.rows(mapping, Counter()))
        return "rows" if rows else "no rows"
    except UserError as error:
        if len(str(error)) > 1500:
            raise AssertionError("a message without end") from None
        return "UserError"


_CSV = (
    b"ecg_id,patient_id,age,sex,recording_date,scp_codes,filename_hr,strat_fold,site,device\n"
    b"1,15709.0,56.0,1,1984-11-09 09:17:34,\"{'NORM': 100.0, 'SR': 0.0}\",records500/00000/00001_hr,3,0,CS-12 E\n"
    b"2,13243.0,19.0,0,1984-11-14 12:55:37,\"{'IMI': 80.0}\",records500/00000/00002_hr,2,0,CS-12 E\n"
)
_MIMIC = (
    b"subject_id,study_id,file_name,ecg_time,path\n10000032,40689238,40689238,2180-07-23 08:44:00,files/p1000/s4/40\n"
)


def _parquet() -> bytes:
    columns = {
        "ecg_id": [1, 2],
        "patient_id": [15709.0, None],
        "age": [56.0, 300.0],
        "sex": [1, 0],
        "recording_date": ["1984-11-09 09:17:34", ""],
        "scp_codes": ["{'NORM': 100.0}", "{'IMI': 80.0}"],
        "filename_hr": ["a/1_hr", "a/2_hr"],
        "strat_fold": [1, 2],
        "site": ["0", "1"],
        "device": ["x", None],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


@cache
def _settings_file() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-")) / "settings.yaml"


def _settings(data: bytes) -> str:
    path = _settings_file()
    path.write_bytes(data)
    found = []
    for model, what in ((LabelRule, "label rule"), (ColumnMapping, "column mapping")):
        try:
            read_settings(path, model, what)
            found.append(what)
        except UserError as error:
            if len(str(error)) > 1500:
                raise AssertionError("a message without end") from None
    return " and ".join(found) or "UserError"


def _names(data: bytes) -> str:
    """Paths as tables, RECORDS files and headers give them."""
    text = data.decode("utf-8", "surrogateescape")
    if is_safe_path(text):
        inside = posixpath.normpath(posixpath.join("/archive/a", text))
        if not inside.startswith("/archive/a/") or "\0" in text or "://" in text or "\\" in text:
            raise AssertionError(f"{text!r} leads out of its folder")
    safe = safe_location(text)
    if safe is None:
        return "refused"
    location, _ = location_of(safe)
    stem_of(location)
    is_changed(text, location, "0011223344")
    if not posixpath.normpath(posixpath.join("/archive", location)).startswith("/archive/"):
        raise AssertionError(f"{text!r} leads out of the archive")
    return "taken"


def targets() -> tuple[Target, ...]:
    """Return every target, with inputs to begin from."""
    short = [_short(fmt=fmt) for fmt in _FORMATS]
    named = record(digital=ecg(_SAMPLES))
    comment = b"#Age: 67\n#Sex: Female\n#Dx: 164865005,59118001\n#<age>: 40 <sex>: M\n"
    comment += b"#Reason for admission: myocardial infarction\n"
    in_matlab = named["r.hea"].replace(b"r.dat 16 ", b"r.mat 16+24 ")
    parts = record("r_1", digital=ecg(_SAMPLES)[:, :60]) | record("r_2", digital=ecg(_SAMPLES)[:, 60:])
    segments = CUT.join(
        [b"r/2 12 500 100\nr_1 60\nr_2 40\n", *(parts[f"r_{n}.{s}"] for s in ("hea", "dat") for n in (1, 2))]
    )
    cells = (b"56.0", b"300", b"1984-11-09 09:17:34", b"09/11/1984", b"15709.0", b"NORM,SR", b"<89", b"067Y")
    rules = (
        b"name: mine\npositive_codes: ['164865005']\nnegative_codes: ['426783006']\n",
        b"path: file\npatient_id: who\nage: age\nsex: sex\nsex_values: {'0': male, '1': female}\n",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system ['true']\n",
    )
    stated = CUT + hospital_files.sidecar(leads=list(LEADS))
    digital = ecg(_SAMPLES)
    tables = (hospital_files.csv(digital) + stated, hospital_files.npy(digital) + stated)
    places = (
        b"records500/00000/00001_hr",
        b"../x",
        b"/etc/passwd",
        b"a//b/./c.hea",
        b"s3://b/x",
        b"~/x",
        b"a::b",
        b"p10/",
    )
    return (
        Target("header", (named["r.hea"], _short(per_frame=2)["r.hea"]), _header, 30),
        Target("samples", tuple(bytes([i]) + files["r.dat"] for i, files in enumerate(short)), _samples, 20),
        Target("segments", (segments,), _files, 12),
        Target("matlab", (CUT.join([in_matlab, matlab(ecg(_SAMPLES))]),), _files, 8),
        Target("flac", (_flac_seed(),), _files, 4),
        Target("facts", (named["r.hea"] + comment, comment), _facts, 10),
        Target("cells", cells, _values, 8),
        Target("csv", (_CSV, _MIMIC), lambda data: _table(data, "table.csv"), 3),
        Target("parquet", (_parquet(),), lambda data: _table(data, "table.parquet"), 3),
        Target("settings", rules, _settings, 3),
        Target("names", places, _names, 12),
        *(Target(form, (writer(ecg(500) // 5),), _hospital, 3) for form, (_, writer) in hospital_files.WRITERS.items()),
        Target(
            "scp-within",
            (hospital_files.scp(digital // 5), hospital_files.scp(digital // 5, beats=(200, 400))),
            lambda data: _hospital(scp_mended(data)),
            3,
        ),
        Target("tables", tables, _numbers, 6),
        Target("tar", tar_seeds(_short()), tar, 4),
        Target("zip", zip_seeds(_short()), zip, 4),
        Target("hdf5", hdf5_seeds(), hdf5, 2, seconds=20.0),
        Target("hdf5-said", SAID, hdf5_said, 2, seconds=20.0),
    )


INTERESTING = (
    *(str(n).encode() for n in (0, -1, 1, 2**15, 2**31, 2**32, 2**63, 10**30, 256, 65536)),
    *(b"nan", b"inf", b"1e999", b"-0", b"1e-300", b"0x10", b"1_000", b"+5", b".5", b"5.", b"\xd9\xa3"),
    *(b"../", b"/", b"~", b"::", b"://", b"\0", b"\r\n", b"\n\n", b" ", b"\t", b"#", b":", b"+", b"x", b"(", b")"),
    *(b"mV", b"uV", b"/", b"V1", b"I", b"aVR", b"212", b"16", b"516", b"310", b"80", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(
        b"{",
        b"}",
        b"[",
        b"'" * 3,
        b'"',
        b",",
        b";",
        b"(" * 50,
        b"[" * 500,
        b"!!python/name:os.system",
        b"&a",
        b"*a",
        b"<<",
    ),
    *(struct.pack("<I", n) for n in (0, 1, 2**31, 2**32 - 1)),
    b"A" * 5000,
)
"""Bytes that break readers."""


def mutated(seed: bytes, other: bytes, draw: np.random.Generator) -> bytes:
    """Return a seed with one to eight changes: bits, bytes, numbers, pieces of itself, of another seed, hostile tokens."""
    data = bytearray(seed)
    for _ in range(int(draw.integers(1, 9))):
        at = int(draw.integers(0, len(data) + 1))
        length = int(min(draw.geometric(0.05), 4096))
        kind = int(draw.integers(0, 8))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(draw.integers(0, 8))
        elif kind == 1:
            data[at : at + 1] = bytes([int(draw.integers(0, 256))])
        elif kind == 2:
            data[at:at] = INTERESTING[int(draw.integers(0, len(INTERESTING)))]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            begin = int(draw.integers(0, len(other) + 1))
            data[at : at + length] = other[begin : begin + length]
        elif kind == 6:  # a number becomes another
            numbers = list(re.finditer(rb"\d+", bytes(data[:20_000])))
            if numbers:
                chosen = numbers[int(draw.integers(0, len(numbers)))]
                data[chosen.start() : chosen.end()] = INTERESTING[int(draw.integers(0, 21))]
        else:
            data = data[: max(1, at)]
    return bytes(data[: 2**20])
