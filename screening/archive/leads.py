"""From the channels that a file holds, whatever its format, to the twelve leads in millivolts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.contract import (
    DERIVED_LEADS,
    INDEPENDENT_LEADS,
    INDEPENDENT_ROWS,
    LEADS,
    MAX_SAMPLES,
    N_LEADS,
    RATE_LIMITS_HZ,
    Reason,
    iec_chest_leads,
    lead_of,
)

ROW = {lead: row for row, lead in enumerate(LEADS)}

MIN_STEPS_PER_MV = 1e-3
"""A converter whose one step is a volt or more did not measure an ECG."""


@dataclass(slots=True)
class Leads:
    """The leads of one stretch of recording."""

    signal_mV: np.ndarray
    rate_hz: float
    rows: set[int]  # of the leads there are, derived ones included
    formats: set[str] = field(default_factory=set)
    unit_sources: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)


class Channel(NamedTuple):
    """One signal as a file holds it: ``samples * mV_per_step + offset_mV`` are millivolts."""

    name: str  # as the file states it
    samples: np.ndarray  # (samples,) of any number type
    mV_per_step: float
    offset_mV: float = 0.0


def assemble(
    channels: Sequence[Channel], rate_hz: float, *, source_format: str, unit_source: str, flags: Sequence[str] = ()
) -> Leads:
    """Map channels to leads by name, scale them, and derive the limb leads that are absent.

    Parameters
    ----------
    channels
        Of the rhythm strip. Those that are none of the twelve leads are passed over.
    rate_hz
        Samples a second, the same for all channels.
    source_format, unit_source
        As in a Recording.

    Returns
    -------
    Leads with float32 (12, samples) and all twelve rows.

    Raises
    ------
    Refused
        The rate is that of no ECG, a lead is present twice with other samples, leads have other lengths, a scale is no
        number above zero, or fewer than the eight independent leads are there.
    """
    if not math.isfinite(rate_hz) or not RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1]:
        raise Refused(Reason.MISSING_RATE, f"{rate_hz:g} Hz is no rate of a diagnostic ECG")
    iec = iec_chest_leads([channel.name for channel in channels])
    used = [(lead, one) for one in channels if (lead := lead_of(one.name) or iec.get(one.name)) is not None]
    require_independent({ROW[lead] for lead, _ in used})
    lengths = sorted({len(channel.samples) for _, channel in used})
    if len(lengths) > 1:
        raise Refused(Reason.TRUNCATED, f"the leads have from {lengths[0]} to {lengths[-1]} samples")
    if lengths[0] * len(used) > MAX_SAMPLES:
        raise Refused(
            Reason.TOO_LARGE, f"the record holds {lengths[0] * len(used)} samples, the limit is {MAX_SAMPLES}"
        )
    leads = Leads(
        np.full((N_LEADS, lengths[0]), np.nan, np.float32),
        rate_hz,
        set(),
        {source_format},
        {unit_source},
        set(flags),
    )
    for lead, channel in used:
        if not math.isfinite(channel.mV_per_step) or not math.isfinite(channel.offset_mV) or not channel.mV_per_step:
            raise Refused(Reason.MISSING_UNITS, f"lead {lead} is uncalibrated: its scale is missing or 0")
        if abs(channel.mV_per_step) * MIN_STEPS_PER_MV > 1:
            raise Refused(Reason.IMPLAUSIBLE_AMPLITUDE, f"one step of lead {lead} would be more than 1 V")
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is judged with the quality
            signal = (channel.samples.astype(np.float64) * channel.mV_per_step + channel.offset_mV).astype(np.float32)
        place(leads, signal[None], [ROW[lead]])
    derive(leads)
    return leads


def place(leads: Leads, block: np.ndarray, rows: Sequence[int]) -> None:
    """Put further leads, float32 (leads, samples), into their rows; Refused where one is there with other samples."""
    if not leads.signal_mV.shape[1]:
        leads.signal_mV = np.full((N_LEADS, block.shape[1]), np.nan, np.float32)
    for row, signal in zip(rows, block, strict=True):
        if row in leads.rows:
            if not np.array_equal(leads.signal_mV[row], signal, equal_nan=True):
                raise Refused(Reason.DUPLICATE_LEAD, f"lead {LEADS[row]} is present twice, with different samples")
            leads.flags.add("duplicate_lead")
            continue
        leads.signal_mV[row] = signal
        leads.rows.add(row)


def derive(leads: Leads) -> None:
    """Compute absent limb leads from I and II where these are there."""
    if not {ROW["I"], ROW["II"]} <= leads.rows:
        return
    for lead, (of_i, of_ii) in DERIVED_LEADS.items():
        if ROW[lead] not in leads.rows:
            leads.signal_mV[ROW[lead]] = of_i * leads.signal_mV[0] + of_ii * leads.signal_mV[1]
            leads.rows.add(ROW[lead])
            leads.flags.add("derived_leads")


def require_independent(rows: set[int]) -> None:
    """Refuse what lacks one of the eight leads that an electrocardiograph measures."""
    missing = [lead for lead in INDEPENDENT_LEADS if ROW[lead] not in rows] if len(rows) < N_LEADS else []
    if missing:
        raise Refused(Reason.MISSING_LEADS, f"no signal for {', '.join(missing)}")


# --- What is added at the ends ---------------------------------------------------------------------------------------

_ALIKE_MV = 0.1
"""Leads that move together come no further apart than this, the noise of their amplifiers included."""
_FINEST_MV = 0.001
"""A plateau without noise is left by as much."""
_PULSE_MV = (0.8, 1.2)
_LONGEST_PULSE_S = 2.0
_SHORTEST_PLATEAU_S = 0.04
_SHORTEST_FOOT_S = 0.02
_LONGEST_EDGE_S = 0.06
_PLATEAU = 0.15
"""Of the pulse's height: so near its foot or its top a level belongs to these, for a high pass makes plateaus droop."""
_SHORTEST_PADDING_S = 0.5
"""The leads of a simulator rest between two beats for nearly as long."""
_SHORTEST_ZEROS_S = 0.02
"""All leads at exactly zero are no ECG; CODE-15% fills up with these."""

_MEASURED = np.array(INDEPENDENT_ROWS)


def trim_ends(leads: Leads) -> Leads:
    """Return leads without what is added at the ends: a 1 mV calibration pulse in all leads, and constant padding.

    A pulse lifts all eight measured leads by as much at once, padding does not move in any of them; hearts do neither. What is
    left keeps the flags "calibration_removed" and "padding_removed". Where nothing is added, a few samples show it.
    """
    signal, rate_hz = leads.signal_mV, leads.rate_hz
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is judged with the quality
        start, first = _added(signal, rate_hz)
        if start == signal.shape[1]:
            return leads  # nothing but padding: the quality tells
        end, last = _added(signal[:, start:][:, ::-1], rate_hz)
    if start or end:
        leads.signal_mV = np.ascontiguousarray(signal[:, start : signal.shape[1] - end])
        leads.flags |= first | last
    return leads


def _added(signal: np.ndarray, rate_hz: float) -> tuple[int, set[str]]:
    """Return how many samples at the beginning are no ECG, and the flags for what they are."""
    at, flags = 0, set[str]()
    while signal.shape[1] - at > 1:
        rest = signal[:, at:]
        if found := _pulse(rest, rate_hz):
            flags.add("calibration_removed")
        elif found := _padding(rest, rate_hz):
            flags.add("padding_removed")
        else:
            break
        at += found
    return at, flags


def _padding(signal: np.ndarray, rate_hz: float) -> int:
    """Return for how many samples from the first on no measured lead moves, 0 where that is too short for padding."""
    first = [signal[row, 0] for row in INDEPENDENT_ROWS]
    shortest = (_SHORTEST_PADDING_S if any(first) else _SHORTEST_ZEROS_S) * rate_hz
    far = min(math.ceil(shortest), signal.shape[1]) - 1
    if any(signal[row, far] != level for row, level in zip(INDEPENDENT_ROWS, first, strict=True)):
        return 0  # here most records end
    run, size = 0, far + 1
    while run < signal.shape[1]:  # in growing blocks, for an hour need not be copied to see that it moves
        same = (signal[_MEASURED, run : run + size] == signal[_MEASURED, :1]).all(axis=0)
        run += _run(same)
        if not same.all():
            break
        size *= 2
    return run if run >= shortest else 0


def _pulse(signal: np.ndarray, rate_hz: float) -> int:
    """Return how many samples from the first on are a calibration pulse with what it stands on, 0 where there is none.

    Each lead may stand at a level of its own: what counts is that all rise and fall together, between two plateaus.
    """
    longest = int(_LONGEST_PULSE_S * rate_hz)
    glance = signal[:, : longest : max(1, int(_SHORTEST_PLATEAU_S / 2 * rate_hz))]
    # All records come through here, few get past two leads, and hardly one past eight.
    if not _rise(glance[ROW["V1"]], glance[ROW["V6"]]) or not _rise(*glance[_MEASURED]):
        return 0
    measured = signal[_MEASURED, :longest].astype(np.float64)
    own = measured[:, : max(1, int(_SHORTEST_FOOT_S / 2 * rate_hz))].mean(axis=1, keepdims=True)
    together = _run(np.ptp(measured - own, axis=0) < _ALIKE_MV)
    level = (measured - own)[:, :together].mean(axis=0)
    height = float(np.ptp(level)) if together else 0.0
    if not _PULSE_MV[0] < height < _PULSE_MV[1]:
        return 0
    share = (level - level.min()) / height
    low, high = share < _PLATEAU, share > 1 - _PLATEAU
    edges = _runs(~(low | high))
    if (
        max(_runs(high)) < _SHORTEST_PLATEAU_S * rate_hz
        or low.sum() < _SHORTEST_FOOT_S * rate_hz
        or max(edges, default=0) > _LONGEST_EDGE_S * rate_hz
    ):
        return 0
    return _end_of_plateau(measured, low, high, rate_hz)


def _rise(*leads: np.ndarray) -> bool:
    """Whether leads all move one way by half a pulse, for the first sample may lie on an edge."""
    moved = [lead - lead[0] for lead in leads]
    up, down = reduce(np.minimum, moved), reduce(np.maximum, moved)
    half_mV = (_PULSE_MV[0] - _ALIKE_MV) / 2
    # argmax, because max takes three times as long of so few.
    return bool(up[up.argmax()] > half_mV or down[down.argmin()] < -half_mV)


def _end_of_plateau(measured: np.ndarray, low: np.ndarray, high: np.ndarray, rate_hz: float) -> int:
    """Return where the leads leave the last plateau: what it stands on is flat, and the ECG is not."""
    last = int(np.flatnonzero(low | high)[-1])
    kind = low if low[last] else high
    begin = last - _run(kind[last::-1]) + 1
    few = measured[:, begin : begin + max(4, int(2 * _SHORTEST_FOOT_S * rate_hz))]
    level = np.median(few, axis=1, keepdims=True)
    noise = float(np.abs(few - level)[:, few.shape[1] // 2 :].max())
    away = np.abs(measured[:, begin:] - level).max(axis=0)
    at_level = away <= min(max(1.5 * noise, _FINEST_MV), _ALIKE_MV / 2)
    settled = _run(~at_level)  # a slow edge ends within the plateau
    return begin + settled + _run(at_level[settled:]) if settled < few.shape[1] else begin


def _run(alike: Any) -> int:
    """Return how many values from the first on are true."""
    return len(alike) if alike.all() else int(np.argmin(alike))


def _runs(of: np.ndarray) -> list[int]:
    """Return the lengths of all runs of true values."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], of, [False]]).astype(np.int8)))
    return (ends[1::2] - ends[::2]).tolist()
