"""Rows of a pack: what reading gave for a record, as int16 samples where these give it back to the last bit.

A pack is a cache of an archive in large files, made by `screening.archive.packing` and read by `screening.archive.pack`. A row
holds a Recording, or the reason and detail of a Rejected; never a location, a path or a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from screening.archive.wfdb_header import parse
from screening.contract import LEADS, N_LEADS, Reason, mV_per_unit
from screening.recording import Recording, Rejected

READING = 4
"""Raised whenever reading gives anything else for the same bytes; packs of another number are made anew."""

PACK_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("version", pa.string()),  # of the catalog
        ("sha256", pa.string()),  # of the source bytes
        ("source_format", pa.string()),
        ("unit_source", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("rate_hz", pa.float64()),
        ("samples", pa.int32()),
        ("digital", pa.binary()),  # int16, little-endian, one lead after the other; `MISSING` where a sample is missing
        (
            "gain",
            pa.list_(pa.float64(), N_LEADS),
        ),  # steps a millivolt, by lead; Arrow reads no null among lists of one size
        ("baseline", pa.list_(pa.int32(), N_LEADS)),
        ("signal_mV", pa.binary()),  # float32, little-endian, where int16 would not give the very same millivolts
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
MISSING = -32768
MOST_PACKED_BYTES = 16 * 2**20
"""Longer recordings stay in the archive, so that a group of rows is small."""

Steps = tuple[np.ndarray, np.ndarray]
"""Steps a millivolt, float64 (12,), and the value at zero millivolts, int32 (12,), of each lead."""

_SIGNALS = ("digital", "signal_mV", "gain", "baseline")
_DEFAULTS: dict[str, Any] = {"gain": [0.0] * N_LEADS, "baseline": [0] * N_LEADS}


def steps_of(header: bytes) -> Steps | None:
    """Return what the header of a record of one segment says of its converter; None unless it names all twelve leads."""
    gain, baseline = np.zeros(N_LEADS), np.zeros(N_LEADS, np.int64)
    for signal in reversed(parse(header).leads):  # of a lead that is there twice, the first counts
        row, unit_mV = LEADS.index(str(signal.lead)), mV_per_unit(signal.units) if signal.units else 1.0
        if not unit_mV or abs(signal.baseline) >= 2**31 or abs(signal.gain / unit_mV) > 1e30:
            return None
        gain[row], baseline[row] = signal.gain / unit_mV, signal.baseline
    return (gain, baseline.astype(np.int32)) if gain.all() else None


def row_of(outcome: Recording | Rejected, version: str, steps: Steps | None) -> dict[str, Any] | None:
    """Return the row of a record, which gives back every bit of its millivolts; None where it is too long."""
    row: dict[str, Any] = {"record_id": outcome.record_id, "version": version, "sha256": outcome.sha256}
    row["source_format"] = outcome.source_format
    if isinstance(outcome, Rejected):
        return row | {"reason": str(outcome.reason), "detail": outcome.detail}
    samples = outcome.signal_mV.shape[1]
    row |= {"unit_source": outcome.unit_source, "flags": list(outcome.flags)}
    row |= {"rate_hz": outcome.rate_hz, "samples": samples}
    if (digital := _digital(outcome.signal_mV, steps)) is not None and steps is not None:
        row |= {"digital": digital.tobytes(), "gain": steps[0], "baseline": steps[1]}
    else:
        row["signal_mV"] = outcome.signal_mV.astype("<f4").tobytes()
    return row if len(row.get("digital", row.get("signal_mV", b""))) <= MOST_PACKED_BYTES else None


def _digital(signal_mV: np.ndarray, steps: Steps | None) -> np.ndarray | None:
    """Return the int16 samples that give back these millivolts, bit by bit; None where there are none."""
    if steps is None:
        return None
    missing = np.isnan(signal_mV)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.rint(signal_mV * steps[0][:, None] + steps[1][:, None])
        found[missing] = MISSING
        if not (np.abs(found) <= -MISSING).all():
            return None
        digital = np.clip(found, MISSING, -MISSING - 1).astype("<i2")
    again = millivolts(digital, *steps)
    same = np.array_equal(again.view(np.uint32), np.ascontiguousarray(signal_mV).view(np.uint32))
    return digital if same else None


def millivolts(digital: np.ndarray, gain: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return (digital - baseline) / gain as float32 (12, samples), rounded once; NaN where a sample is `MISSING`.

    Differences below 2**24 are exact in float32 and its division rounds correctly, so that it gives what float64 does.
    """
    narrow = gain.astype(np.float32)
    if (narrow == gain).all() and int(np.abs(baseline.astype(np.int64)).max()) < 1 << 23:
        signal_mV = digital.astype(np.float32)
        if baseline.any():
            signal_mV -= baseline.astype(np.float32)[:, None]
        signal_mV /= narrow[:, None]
    else:
        signal_mV = ((digital - baseline.astype(np.float64)[:, None]) / gain[:, None]).astype(np.float32)
    if digital.size and digital.min() == MISSING:
        signal_mV[digital == MISSING] = np.nan
    return signal_mV


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as they are written."""
    columns = {f.name: [row.get(f.name, _DEFAULTS.get(f.name)) for row in rows] for f in PACK_SCHEMA}
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in PACK_SCHEMA})


class Rows:
    """Rows of a pack in memory; each becomes a Recording or a Rejected when it is asked for.

    Parameters
    ----------
    table
        Of `PACK_SCHEMA`.
    """

    def __init__(self, table: pa.Table) -> None:
        columns = {name: table[name].combine_chunks() for name in PACK_SCHEMA.names}
        self._facts = pa.table({name: columns[name] for name in columns if name not in _SIGNALS}).to_pylist()
        self._digital, self._signal_mV = columns["digital"], columns["signal_mV"]
        self._gain, self._baseline = (
            columns[name].flatten().to_numpy().reshape(-1, N_LEADS) for name in ("gain", "baseline")
        )

    def is_of(self, row: int, record_id: str, version: str) -> bool:
        """Whether a row is this record's, in this version."""
        facts = self._facts[row]
        return bool(facts["record_id"] == record_id and facts["version"] == version)

    def outcome(self, row: int) -> Recording | Rejected:
        """Return what reading the record gave."""
        facts = self._facts[row]
        common = (facts["sha256"], facts["source_format"])
        if facts["reason"] is not None:
            return Rejected(facts["record_id"], Reason(facts["reason"]), facts["detail"], *common)
        shape = (N_LEADS, facts["samples"])
        if self._digital[row].is_valid:
            digital = np.frombuffer(self._digital[row].as_buffer(), "<i2").reshape(shape)
            signal_mV = millivolts(digital, self._gain[row], self._baseline[row])
        else:
            signal_mV = np.frombuffer(self._signal_mV[row].as_buffer(), "<f4").reshape(shape).astype(np.float32)
        return Recording(
            facts["record_id"], signal_mV, facts["rate_hz"], *common, facts["unit_source"], tuple(facts["flags"])
        )
