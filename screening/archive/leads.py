"""From the channels that a file holds, whatever its format, to the twelve leads in millivolts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.contract import (
    DERIVED_LEADS,
    INDEPENDENT_LEADS,
    LEADS,
    MAX_SAMPLES,
    N_LEADS,
    RATE_LIMITS_HZ,
    Reason,
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
    used = [(lead, channel) for channel in channels if (lead := lead_of(channel.name)) is not None]
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


SAME_MV = 0.02
"""Leads whose levels differ by less show the same: a few of the finest steps of any format."""
_SHORTEST_PULSE_S = 0.1
_SHORTEST_PADDING_S = 0.5
"""The leads of a simulator rest between two beats for nearly as long."""
_SHORTEST_ZEROS_S = 0.02
"""All leads at exactly zero are no ECG; CODE-15% fills up with these."""
_MOST_MOVES = 0.1
"""Of the steps of a pulse: its edges."""


def trim_ends(leads: Leads) -> Leads:
    """Return leads without what is added at the ends: a 1 mV calibration pulse in all leads, and constant padding.

    A pulse stands at one level in all eight measured leads at once, padding does not move in any of them; hearts do neither.
    What is left keeps the flags "calibration_removed" and "padding_removed".
    """
    measured = leads.signal_mV[[ROW[lead] for lead in INDEPENDENT_LEADS]]
    if measured.shape[1] < 2 or not np.isfinite(measured).all():
        return leads
    start, first = _added(measured, leads.rate_hz)
    if start == measured.shape[1]:
        return leads  # nothing but padding: the quality tells
    end, last = _added(measured[:, start:][:, ::-1], leads.rate_hz)
    if start or end:
        leads.signal_mV = np.ascontiguousarray(leads.signal_mV[:, start : measured.shape[1] - end])
        leads.flags |= {flag for flag in (first, last) if flag}
    return leads


def _added(measured: np.ndarray, rate_hz: float) -> tuple[int, str | None]:
    """Return how many samples at the beginning are no ECG, and the flag for what they are."""
    at_rest = _run(~np.diff(measured, axis=1).any(axis=0)) + 1
    shortest = _SHORTEST_PADDING_S if measured[:, 0].any() else _SHORTEST_ZEROS_S
    at_rest = at_rest if at_rest >= shortest * rate_hz else 0
    alike = _run(np.ptp(measured, axis=0) < SAME_MV)
    level = measured[:, :alike].mean(axis=0)
    if alike > max(_SHORTEST_PULSE_S * rate_hz, at_rest):
        is_still = (np.abs(np.diff(level)) > SAME_MV / 2).mean() < _MOST_MOVES
        if is_still and 0.8 < float(np.ptp(level)) < 1.2:
            return alike, "calibration_removed"
    return at_rest, "padding_removed" if at_rest else None


def _run(alike: Any) -> int:
    """Return how many values from the first on are true."""
    return len(alike) if alike.all() else int(np.argmin(alike))
