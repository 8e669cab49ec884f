"""A donor's beats laid on a record's: the same heart, beating when the record's does.

Parts that are exchanged between ECGs of different rhythm beat out of step with what stays, and a network takes that for
disease. So the donor is resampled in time, beat by beat: R on R, its QRS as long as it was, its P and T where the record's
are, and the rest stretched between them. Each beat is brought to the record's level just before the QRS, so that ST levels
are exchanged and wandering baselines are not. All of it is the same for all leads and linear in the donor, so Einthoven's
law is kept.
"""

from __future__ import annotations

import numpy as np

from screening.attribution.beats import FINE_HZ, Beats, finely

_JOIN_S = 0.04  # over which one beat gives way to the next
_APART_S = 0.004  # between anchors that would else fall together


class Lender:
    """A donor, prepared to be laid on many records.

    Parameters
    ----------
    donor_mV
        float32 (12, n), filtered.
    beats
        The donor's.
    rate_hz
        Samples a second.
    """

    def __init__(self, donor_mV: np.ndarray, beats: Beats, rate_hz: float) -> None:
        self.fine = finely(donor_mV, rate_hz)
        self.rate_hz = rate_hz
        # Whole beats only: what is needed of one reaches from its P to its T.
        seconds = donor_mV.shape[1] / rate_hz
        whole = (np.fmin(beats.p_on, beats.qrs_on - 0.2) >= 0) & (np.fmax(beats.t_off, beats.qrs_off + 0.3) <= seconds)
        chosen = np.flatnonzero(whole) if whole.sum() >= 2 else np.arange(len(beats))
        self.beats = Beats(*(getattr(beats, name)[chosen] for name in Beats.__dataclass_fields__))
        self.levels = _levels(self.fine, self.beats.qrs_on)  # (beats, 12)

    def laid_on(self, signal_mV: np.ndarray, beats: Beats, *, line: np.ndarray | None = None) -> np.ndarray | None:
        """Return the donor with its beats on the record's, float32 (12, n); None where either has fewer than two beats.

        Parameters
        ----------
        signal_mV
            float32 (12, n), the record at the donor's rate.
        beats
            The record's.
        line
            The record's `level_line`, if it is at hand.
        """
        if len(beats) < 2 or len(self.beats) < 2:
            return None
        samples = signal_mV.shape[1]
        time = np.arange(samples) / self.rate_hz
        edges = _borders(beats)
        laid = np.zeros((signal_mV.shape[0], samples), np.float64)
        for i in range(len(beats)):
            of_donor = i % len(self.beats)
            start = edges[i] if i else -np.inf
            end = edges[i + 1] if i + 1 < len(beats) else np.inf
            weight = np.clip((time - start) / _JOIN_S + 0.5, 0, 1) * np.clip((end - time) / _JOIN_S + 0.5, 0, 1)
            inside = weight > 0
            there = self._time_in_donor(time[inside], beats, i, of_donor)
            laid[:, inside] += weight[inside] * (self._at(there) - self.levels[of_donor][:, None])
        laid += level_line(signal_mV, beats, self.rate_hz) if line is None else line
        return laid.astype(np.float32)

    def _at(self, time_s: np.ndarray) -> np.ndarray:
        """Return the donor's leads at times, (12, times); before its start and after its end it stays what it was there."""
        place = np.clip(time_s * FINE_HZ, 0, self.fine.shape[1] - 1.001)
        whole = place.astype(np.int64)
        part = (place - whole).astype(np.float32)
        return np.asarray(self.fine[:, whole] * (1 - part) + self.fine[:, whole + 1] * part)

    def _time_in_donor(self, time_s: np.ndarray, beats: Beats, i: int, of_donor: int) -> np.ndarray:
        """Return which times of the donor's beat stand at times of the record's beat."""
        ours, theirs = (
            {name: getattr(of, name)[at] for name in Beats.__dataclass_fields__}
            for of, at in (
                (beats, i),
                (self.beats, of_donor),
            )
        )
        shift = ours["r"] - theirs["r"]
        before = [(ours[name], theirs[name]) for name in ("p_on", "p_off")]
        qrs = [(theirs[name] + shift, theirs[name]) for name in ("qrs_on", "r", "qrs_off")]
        after = [(ours[name], theirs[name]) for name in ("t_on", "t_off")]
        # Without a P (or T) on both sides, what stands there keeps its distance from the QRS.
        anchors = np.array(
            (before if np.isfinite(before).all() else []) + qrs + (after if np.isfinite(after).all() else [])
        )
        middle = int(np.flatnonzero(anchors[:, 1] == theirs["r"])[0])
        for at in range(middle + 1, len(anchors)):
            anchors[at] = np.maximum(anchors[at], anchors[at - 1] + _APART_S)
        for at in range(middle - 1, -1, -1):
            anchors[at] = np.minimum(anchors[at], anchors[at + 1] - _APART_S)
        first, last = anchors[0], anchors[-1]
        there = np.interp(time_s, anchors[:, 0], anchors[:, 1])
        there = np.where(time_s < first[0], first[1] + time_s - first[0], there)
        return np.where(time_s > last[0], last[1] + time_s - last[0], there)


def level_line(signal_mV: np.ndarray, beats: Beats, rate_hz: float) -> np.ndarray:
    """Return the level just before each QRS, drawn through to the next one, float64 (12, n)."""
    levels = _levels(finely(signal_mV, rate_hz), beats.qrs_on)
    time = np.arange(signal_mV.shape[1]) / rate_hz
    return np.stack([np.interp(time, beats.qrs_on, of_lead) for of_lead in levels.T])


def _borders(beats: Beats) -> np.ndarray:
    """Return where each beat begins, s (beats,): midway between the end of the T before and its own P or QRS."""
    starts = np.where(np.isfinite(beats.p_on), beats.p_on, beats.qrs_on - 0.1)
    ends = np.where(np.isfinite(beats.t_off), beats.t_off, beats.qrs_off + 0.25)
    borders = np.empty(len(beats))
    borders[0] = -np.inf
    # A T that reaches into the next P: the border stays between the two QRS.
    middle = np.minimum((ends[:-1] + starts[1:]) / 2, beats.qrs_on[1:] - 0.03)
    borders[1:] = np.maximum(middle, beats.qrs_off[:-1] + 0.03)
    return borders


def _levels(fine: np.ndarray, qrs_on: np.ndarray) -> np.ndarray:
    """Return the level just before each QRS, float64 (beats, 12): the mean from 16 to 4 ms before it."""
    places = np.clip(np.round(qrs_on * FINE_HZ).astype(np.int64)[:, None] + np.arange(-8, -1), 0, fine.shape[1] - 1)
    return np.asarray(fine[:, places].mean(axis=2, dtype=np.float64).T)
