"""Pictures as PNG bytes: reliability of probabilities and ROC curve.

matplotlib comes with MLflow, so it is always there; it is imported late because it is slow to.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.train.subgroups import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1a1a1a", "#8a8a8a"


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
    return png(figure, dpi=120)


def evaluation_plot(
    calibration: Mapping[str, Any], probability: np.ndarray, target: np.ndarray, *, title: str = ""
) -> bytes:
    """Return the ROC curve of infarction against everything else, beside the reliability diagram."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(10, 5), layout="constrained")
    roc, reliability = figure.subplots(1, 2)
    false, true, _ = roc_curve(target, probability)
    roc.plot([0, 1], [0, 1], linestyle=":", color=FAINT)
    roc.plot(false, true, color=INK)
    roc.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC, infarction against everything else")
    roc.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _draw_reliability(reliability, calibration, "Reliability, one ECG a patient")
    if title:
        figure.suptitle(title)
    return png(figure, dpi=120)


def _draw_reliability(axes: Axes, calibration: Mapping[str, Any], title: str) -> None:
    bins = calibration["bins"]
    x = [row["mean_probability"] for row in bins]
    y = [row["frequency"] for row in bins]
    spans = [wilson(round(row["frequency"] * row["n"]), row["n"]) for row in bins]
    below = [max(0.0, at - low) for at, (low, _) in zip(y, spans, strict=True)]
    above = [max(0.0, high - at) for at, (_, high) in zip(y, spans, strict=True)]
    axes.plot([0, 1], [0, 1], linestyle=":", color=FAINT)
    axes.errorbar(x, y, yerr=[below, above], fmt="o", color=INK, markersize=4, linewidth=1, capsize=2)
    said = [f"ECE {calibration['expected_calibration_error']:.3f}", f"Brier {calibration['brier']:.3f}"]
    if calibration.get("slope") is not None:
        said += [f"slope {calibration['slope']:.2f}", f"intercept {round(calibration['intercept'], 2) + 0.0:.2f}"]
    said.append(f"{sum(row['n'] for row in bins):,} patients")
    axes.text(0.97, 0.03, "\n".join(said), transform=axes.transAxes, ha="right", va="bottom", fontsize=9)
    axes.set(xlabel="mean probability of the bin", ylabel="share with infarction (Wilson 95%)", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def png(figure: Figure, *, dpi: int) -> bytes:
    """Return the picture; without the library's version in it, so that the same drawing is the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
