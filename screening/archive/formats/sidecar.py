"""Tables of numbers (CSV, NPY, HDF5), which state neither unit nor rate: a sidecar, ``ecg.yaml``, says them for its folder.

It holds for its folder and those below, up to the next sidecar. Without one such a file is refused, for nothing is guessed.
"""

from __future__ import annotations

import hashlib
import io
import math
import posixpath
import re
import tokenize
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening import plain_yaml
from screening.archive.container import Refused
from screening.archive.formats import GZIP, unpacked
from screening.archive.leads import Channel, Leads, assemble, trim_ends
from screening.contract import (
    MAX_RECORD_BYTES,
    MAX_SAMPLES,
    MAX_SIGNALS,
    N_LEADS,
    RATE_LIMITS_HZ,
    Reason,
    lead_of,
    mV_per_unit,
)
from screening.recording import Recording, Rejected

SIDECAR = "ecg.yaml"
MAX_SIDECAR_BYTES = 2**16
MEMBER = b"one ECG of HDF5\n"
"""Stands before the NPY form of what is one record of an HDF5 file."""
_NPY = b"\x93NUMPY"
_NPY_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Sidecar(BaseModel):
    """What a table of numbers does not say of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Literal["V", "mV", "uV", "nV"]
    rate_hz: Annotated[float, Field(ge=RATE_LIMITS_HZ[0], le=RATE_LIMITS_HZ[1])]
    leads: Annotated[list[str], Field(max_length=MAX_SIGNALS)] | None = (
        None  # in their order, where no header names them
    )
    layout: Literal["samples_by_leads", "leads_by_samples"] | None = None  # where both sides could be the leads
    units_per_step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0  # of whole numbers from a converter
    dataset: str = "tracings"  # of an HDF5 file: (records, samples, leads), or with its last two sides exchanged
    ids: str | None = None  # of an HDF5 file: the dataset of the records' ids; without one they are numbered from 0


def sidecar_locations(location: str) -> list[str]:
    """Return where the sidecar of a file may be, the nearest first.

    >>> sidecar_locations("a/b/1.csv")
    ['a/b/ecg.yaml', 'a/ecg.yaml', 'ecg.yaml']
    """
    folder, found = posixpath.dirname(location), []
    while folder:
        found.append(f"{folder}/{SIDECAR}")
        folder = posixpath.dirname(folder)
    return [*found, SIDECAR]


@lru_cache(maxsize=64)  # one sidecar is that of many files
def parse(data: bytes) -> Sidecar:
    """Return what a sidecar says; Refused names the setting that is wrong."""
    try:
        settings, _ = plain_yaml.parse(data.decode())
        return Sidecar.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        if where and where[0] not in Sidecar.model_fields:  # it may be anything
            where = ["of a name that is not known"]
        key = ".".join(where) or "the whole of it"
        raise Refused(Reason.BAD_HEADER, f"{SIDECAR} has a bad setting {key}: {first['msg'][:80]}") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError):
        raise Refused(Reason.BAD_HEADER, f"{SIDECAR} is not YAML in UTF-8") from None


def missing() -> Refused:
    """Return the refusal of a table of numbers that has no sidecar."""
    return Refused(
        Reason.MISSING_UNITS, f"a table of numbers states no unit and no rate; an {SIDECAR} beside it says them"
    )


def decode(record_id: str, data: bytes, files: Mapping[str, bytes]) -> Recording | Rejected:
    """Decode a table of numbers by its sidecar, ``files[SIDECAR]``; as `screening.archive.formats.decode` does."""
    stated = files[SIDECAR]
    sha256 = hashlib.sha256(stated + data).hexdigest()
    name = None
    try:
        if data.startswith(GZIP):
            data = unpacked(data, MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the record has more than {MAX_RECORD_BYTES} bytes")
        name = "hdf5" if data.startswith(MEMBER) else "npy" if data.startswith(_NPY) else "csv"
        sidecar = parse(stated)
        leads = read(data, sidecar, name)
        return Recording(
            record_id, leads.signal_mV, leads.rate_hz, sha256, name, f"{SIDECAR}", tuple(sorted(leads.flags))
        )
    except Refused as refused:
        return Rejected(record_id, refused.reason, refused.detail, sha256, name)


def read(data: bytes, sidecar: Sidecar, name: str) -> Leads:
    """Return the leads of a table of numbers."""
    if name == "csv":
        values, columns = _csv(data, sidecar)
    else:
        values, columns = _npy(data.removeprefix(MEMBER)), None
    by_lead, names = _oriented(values, columns, sidecar)
    scale = sidecar.units_per_step * (mV_per_unit(sidecar.unit) or 0.0)
    channels = [Channel(name, samples, scale) for name, samples in zip(names, by_lead, strict=True)]
    if not by_lead.shape[1]:
        raise Refused(Reason.TOO_SHORT, "the table holds no samples")
    return trim_ends(assemble(channels, sidecar.rate_hz, source_format=name, unit_source=SIDECAR))


def _oriented(values: np.ndarray, columns: list[str] | None, sidecar: Sidecar) -> tuple[np.ndarray, list[str]]:
    """Return values (leads, samples) and the leads' names."""
    if columns is not None:
        return values.T, columns
    if sidecar.leads is None:
        raise Refused(Reason.MISSING_LEADS, f"neither a header nor {SIDECAR} names the leads")
    shape, count = values.shape, len(sidecar.leads)
    sides = [side for side in (0, 1) if shape[side] == count]
    if sidecar.layout is not None:
        sides = [side for side in sides if side == (sidecar.layout == "samples_by_leads")]
    if not sides:
        raise Refused(
            Reason.BAD_HEADER,
            f"{SIDECAR} names {count} leads, and the table has {shape[0]} rows and {shape[1]} columns",
        )
    if len(sides) == 2:
        raise Refused(Reason.BAD_HEADER, f"both sides of the table are {count} long; {SIDECAR} must state its layout")
    return (values.T if sides == [1] else values), sidecar.leads


def _npy(data: bytes) -> np.ndarray:
    """Return the array of an NPY file of numbers; nothing is unpickled, and no more is allocated than there are bytes."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _NPY_VERSIONS:
            raise Refused(Reason.UNKNOWN_FORMAT, "this version of NPY is not known")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Python 2 wrote numpy says that it takes longer
            shape, is_fortran, dtype = _NPY_VERSIONS[version](stream, max_header_size=10_000)
    except (ValueError, TypeError, SyntaxError, KeyError, tokenize.TokenError, RecursionError):
        raise Refused(Reason.BAD_HEADER, "the header of the NPY file cannot be understood") from None
    if dtype.kind not in "iuf" or dtype.hasobject:
        raise Refused(Reason.UNKNOWN_FORMAT, "the NPY file holds no plain numbers")
    if len(shape) == 3 and 1 in shape:
        shape = tuple(side for at, side in enumerate(shape) if at != shape.index(1))
    if len(shape) != 2 or min(shape) < 0:
        raise Refused(Reason.BAD_HEADER, f"the NPY file holds {len(shape)} dimensions, and one ECG has two")
    values = shape[0] * shape[1]
    if not values:  # the other side may be longer than numpy takes
        raise Refused(Reason.TOO_SHORT, "the table holds no samples")
    if values > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the NPY file claims {values} samples, the limit is {MAX_SAMPLES}")
    held = len(data) - stream.tell()
    if held < values * dtype.itemsize:
        raise Refused(Reason.TRUNCATED, f"{held} of the {values * dtype.itemsize} bytes claimed are there")
    found = np.frombuffer(data, dtype, values, stream.tell())
    return found.reshape(shape, order="F" if is_fortran else "C")


_BOM = b"\xef\xbb\xbf"
_WITH_UNIT = re.compile(r"(.*?)\s*[\[(](.*?)[\])]\s*")
_COMMENT = re.compile(r"\s*[\"']?(?:#|%|//)+(.*)")
_HEAD = 2**16
"""Bytes in which a table of numbers has begun."""


class _Head(NamedTuple):
    """What stands before the numbers of a CSV file."""

    size: int  # bytes up to the first number
    delimiter: str
    columns: int
    leads: dict[int, str]  # by column; empty where no line names any


def _csv(data: bytes, sidecar: Sidecar) -> tuple[np.ndarray, list[str] | None]:
    """Return a CSV file's numbers, and of those columns only that its header says are leads, if it has one."""
    head = _head_of(data, sidecar)
    if head.columns > MAX_SAMPLES // N_LEADS:
        raise Refused(Reason.TOO_LARGE, f"the table has {head.columns} columns")
    columns = [f"c{i}" for i in range(head.columns)]
    numbers = memoryview(data)[head.size :]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(numbers),
            read_options=pa_csv.ReadOptions(column_names=columns, use_threads=False),
            parse_options=pa_csv.ParseOptions(delimiter=head.delimiter),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.float64()),
                include_columns=[columns[i] for i in head.leads] if head.leads else columns,
                null_values=["", "NaN", "nan", "NA", "NULL"],
                decimal_point="," if head.delimiter == ";" and b"," in bytes(numbers[:_HEAD]) else ".",
            ),
        )
    except pa.ArrowException:
        raise Refused(Reason.UNDECODABLE, "the table has a cell that is no number, or lines of other lengths") from None
    if table.num_rows * table.num_columns > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the table has {table.num_rows} rows of {table.num_columns} columns")
    values = np.column_stack([column.to_numpy() for column in table.columns])
    return values, list(head.leads.values()) or None


def _head_of(data: bytes, sidecar: Sidecar) -> _Head:
    """Return what stands before the numbers: comments, a line that names leads, with units or without, and a line of units."""
    size = len(_BOM) if data.startswith(_BOM) else 0
    comment, header = "", ""
    leads: dict[int, str] = {}
    for line in data[size:_HEAD].splitlines(keepends=True):
        text = _text_of(line)
        if found := _COMMENT.fullmatch(text):
            comment = found[1]
        elif text and not leads and (leads := _leads_in(text, _delimiter_of(text), sidecar)):
            header = text
        elif text and not (leads and _are_units(text, header, leads, sidecar)):
            break
        size += len(line)
    else:
        raise Refused(Reason.TOO_SHORT, "the table holds no samples")
    end = data.find(b"\n", size)
    first = data[size : end if end >= 0 else len(data)].decode("latin-1")
    delimiter = _delimiter_of(header or first)
    leads = leads or _leads_in(comment, delimiter, sidecar)  # as numpy.savetxt writes it
    return _Head(size, delimiter, (header or first).count(delimiter) + 1, leads)


def _text_of(line: bytes) -> str:
    try:
        return line.decode().strip("\r\n ")
    except UnicodeDecodeError:
        return line.decode("latin-1").strip("\r\n ")


def _delimiter_of(text: str) -> str:
    return max("\t;,", key=text.count)


def _leads_in(header: str, delimiter: str, sidecar: Sidecar) -> dict[int, str]:
    """Return the leads that a line names, by column; Refused where a unit stands with one that is not the sidecar's."""
    leads = {}
    for at, cell in enumerate(_cells(header, delimiter)):
        found = _WITH_UNIT.fullmatch(cell)
        name, unit = (found[1], found[2]) if found else (cell, "")
        if lead_of(name) is not None:
            leads[at] = name
            _require_same(name, unit, sidecar)
    return leads


def _are_units(text: str, header: str, leads: dict[int, str], sidecar: Sidecar) -> bool:
    """Whether a line under the header says the units of its leads; Refused where they are not the sidecar's."""
    cells = [cell.strip("[]() ") for cell in _cells(text, _delimiter_of(header))]
    if max(leads) >= len(cells) or any(mV_per_unit(cells[at]) is None for at in leads):
        return False
    for at, name in leads.items():
        _require_same(name, cells[at], sidecar)
    return True


def _cells(text: str, delimiter: str) -> list[str]:
    return [cell.strip().strip("\"'").strip() for cell in text.split(delimiter)]


def _require_same(name: str, unit: str, sidecar: Sidecar) -> None:
    stated = mV_per_unit(unit)
    if stated is not None and not math.isclose(stated, sidecar.units_per_step * (mV_per_unit(sidecar.unit) or 0.0)):
        raise Refused(
            Reason.MISSING_UNITS,
            f"the header says another unit of lead {lead_of(name)} than {SIDECAR} does with units_per_step",
        )
