"""Pictures as PNG bytes: reliability of probabilities, ROC curve, and an ECG on paper.

matplotlib comes with MLflow, so it is always there; it is imported late because it is slow to.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.contract import LEADS, NOTICE
from screening.train.subgroups import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRID, _COARSE, _FAINT = "#1a1a1a", "#f6d5d5", "#e8a3a3", "#8a8a8a"

MM_PER_S, MM_PER_MV = 25.0, 10.0
PAGE_S = 10.0
_PAPER = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_RHYTHM = "II"
_ROW_MM = 30.0
_MARGIN_MM = 10.0  # left of the trace, for the calibration pulse
_HEAD_MM, _FOOT_MM = 26.0, 8.0


def calibration_plot(calibration: Mapping[str, Any], *, title: str = "") -> bytes:
    """Return a reliability diagram: share with infarction by mean probability, with Wilson 95% intervals.

    Parameters
    ----------
    calibration
        What ``model.calibration.reliability`` returned.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    _draw_reliability(figure.subplots(), calibration, title or "Reliability, one ECG a patient")
    return _png(figure, dpi=120)


def evaluation_plot(
    calibration: Mapping[str, Any], probability: np.ndarray, target: np.ndarray, *, title: str = ""
) -> bytes:
    """Return the ROC curve of infarction against everything else, beside the reliability diagram."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(10, 5), layout="constrained")
    roc, reliability = figure.subplots(1, 2)
    false, true, _ = roc_curve(target, probability)
    roc.plot([0, 1], [0, 1], linestyle=":", color=_FAINT)
    roc.plot(false, true, color=_INK)
    roc.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC, infarction against everything else")
    roc.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _draw_reliability(reliability, calibration, "Reliability, one ECG a patient")
    if title:
        figure.suptitle(title)
    return _png(figure, dpi=120)


def ecg_plot(signal_mV: np.ndarray, rate_hz: float, *, head: Sequence[str] = ()) -> bytes:
    """Return an ECG as on paper: 3 by 4 leads and a rhythm strip of lead II, 25 mm/s and 10 mm/mV.

    Parameters
    ----------
    signal_mV : array (12, n)
        In ``contract.LEADS``; NaN leaves a gap. Of more than 10 s the middle is drawn.
    rate_hz : float
        Samples a second.
    head : sequence of str
        Lines above the trace, the first in bold.
    """
    from matplotlib.figure import Figure

    drawn = _middle(np.asarray(signal_mV, np.float64), rate_hz)
    seconds = drawn.shape[1] / rate_hz
    width_mm = _MARGIN_MM + PAGE_S * MM_PER_S + 5
    height_mm = 4 * _ROW_MM
    page_mm = (width_mm + 10, height_mm + _HEAD_MM + _FOOT_MM)
    figure = Figure(figsize=(page_mm[0] / 25.4, page_mm[1] / 25.4))
    axes = figure.add_axes((5 / page_mm[0], _FOOT_MM / page_mm[1], width_mm / page_mm[0], height_mm / page_mm[1]))
    axes.set(xlim=(0, width_mm), ylim=(0, height_mm))  # one unit is one millimetre of paper
    _draw_paper(axes, width_mm, height_mm)
    for row, leads in enumerate(_PAPER):
        middle_mm = height_mm - (row + 0.5) * _ROW_MM
        _draw_pulse(axes, middle_mm)
        edges = np.linspace(0, drawn.shape[1], len(leads) + 1).round().astype(int)
        for column, lead in enumerate(leads):
            _draw_lead(axes, drawn, lead, (edges[column], edges[column + 1]), rate_hz, middle_mm)
    _draw_pulse(axes, _ROW_MM / 2)
    _draw_lead(axes, drawn, _RHYTHM, (0, drawn.shape[1]), rate_hz, _ROW_MM / 2)
    for at, line in enumerate(head):
        figure.text(
            5 / page_mm[0],
            1 - (6 + 5.5 * at) / page_mm[1],
            line,
            fontsize=9,
            fontweight="bold" if at == 0 else "normal",
            color=_INK,
            va="center",
            parse_math=False,
        )
    figure.text(5 / page_mm[0], 3 / page_mm[1], NOTICE, fontsize=7, color=_FAINT)
    figure.text(
        1 - 5 / page_mm[0],
        3 / page_mm[1],
        f"25 mm/s   10 mm/mV   {seconds:.1f} s shown   as recorded, mean of each lead removed",
        fontsize=7,
        color=_FAINT,
        ha="right",
    )
    return _png(figure, dpi=130)


def _draw_reliability(axes: Axes, calibration: Mapping[str, Any], title: str) -> None:
    bins = calibration["bins"]
    x = [row["mean_probability"] for row in bins]
    y = [row["frequency"] for row in bins]
    spans = [wilson(round(row["frequency"] * row["n"]), row["n"]) for row in bins]
    below = [max(0.0, at - low) for at, (low, _) in zip(y, spans, strict=True)]
    above = [max(0.0, high - at) for at, (_, high) in zip(y, spans, strict=True)]
    axes.plot([0, 1], [0, 1], linestyle=":", color=_FAINT)
    axes.errorbar(x, y, yerr=[below, above], fmt="o", color=_INK, markersize=4, linewidth=1, capsize=2)
    said = [f"ECE {calibration['expected_calibration_error']:.3f}", f"Brier {calibration['brier']:.3f}"]
    if calibration.get("slope") is not None:
        said += [f"slope {calibration['slope']:.2f}", f"intercept {round(calibration['intercept'], 2) + 0.0:.2f}"]
    said.append(f"{sum(row['n'] for row in bins):,} patients")
    axes.text(0.97, 0.03, "\n".join(said), transform=axes.transAxes, ha="right", va="bottom", fontsize=9)
    axes.set(xlabel="mean probability of the bin", ylabel="share with infarction (Wilson 95%)", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _draw_paper(axes: Axes, width_mm: float, height_mm: float) -> None:
    axes.vlines(np.arange(0, width_mm + 1), 0, height_mm, color=_GRID, linewidth=0.3)
    axes.hlines(np.arange(0, height_mm + 1), 0, width_mm, color=_GRID, linewidth=0.3)
    axes.vlines(np.arange(0, width_mm + 1, 5), 0, height_mm, color=_COARSE, linewidth=0.5)
    axes.hlines(np.arange(0, height_mm + 1, 5), 0, width_mm, color=_COARSE, linewidth=0.5)
    axes.set_axis_off()


def _draw_pulse(axes: Axes, middle_mm: float) -> None:
    """Draw the calibration pulse: 1 mV for 0.2 s."""
    x = np.array([0, 2, 2, 7, 7, 9], dtype=float)
    axes.plot(x, middle_mm + np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV, color=_INK, linewidth=0.7)


def _draw_lead(
    axes: Axes, drawn: np.ndarray, lead: str, part: tuple[int, int], rate_hz: float, middle_mm: float
) -> None:
    start_mm = _MARGIN_MM + part[0] / rate_hz * MM_PER_S
    x_mm = _MARGIN_MM + np.arange(*part) / rate_hz * MM_PER_S
    axes.plot(x_mm, middle_mm + drawn[LEADS.index(lead), slice(*part)] * MM_PER_MV, color=_INK, linewidth=0.7)
    if part[0]:
        axes.vlines(start_mm, middle_mm - 3, middle_mm + 3, color=_INK, linewidth=0.6)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    axes.text(start_mm + 1, middle_mm + 10, lead, fontsize=9, fontweight="bold", color=_INK, zorder=3, bbox=behind)


def _middle(signal_mV: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the middle ten seconds, each lead without its mean."""
    n = min(signal_mV.shape[1], round(PAGE_S * rate_hz))
    start = (signal_mV.shape[1] - n) // 2
    part = signal_mV[:, start : start + n]
    known = np.isfinite(part)
    mean = np.where(known, part, 0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.asarray(part - mean)


def _png(figure: Figure, *, dpi: int) -> bytes:
    """Return the picture; without the library's version in it, so that the same drawing is the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
