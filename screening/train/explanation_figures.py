"""Pictures of the audit of explanations, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from screening.contract import TERRITORIES
from screening.train.explained import LAID
from screening.train.explanation_tables import PICTURES
from screening.train.figures import FAINT, INK, png
from screening.train.without_leads import MAIN_TASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"most": "#b2182b", "any": FAINT, "least": "#2166ac"}


def draw(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the pictures of what `explanations.audit_explanations` found, by file name."""
    return dict(zip(PICTURES, (_places(found), _curves(found), _cohort(found)), strict=True))


def _places(found: Mapping[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    rows = found["localisation"][::-1]
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        hits, chance = row["hits"], row["chance"]
        axes.barh(at, chance["high"] - chance["low"], left=chance["low"], height=0.6, color="#dddddd")
        axes.plot([chance["value"]] * 2, [at - 0.3, at + 0.3], color=FAINT, linewidth=1)
        colour = _COLOURS["most"] if row["donors"] == LAID else INK
        axes.plot([hits["low"], hits["high"]], [at, at], color=colour, linewidth=1.5)
        axes.plot(hits["value"], at, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row['method']}{_lent(row['donors'])}" for row in rows], fontsize=8)
    axes.set(xlim=(0, 1), xlabel="leading wall is a named one (95%); grey: by chance")
    return png(figure, dpi=120)


def _lent(donors: str) -> str:
    return f" (donors {'laid' if donors == LAID else donors})" if donors else ""


def _curves(found: Mapping[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    of = next(row for row in found["deletion"] if (row["method"], row["donors"]) == ("territory", LAID))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    named = {"most": "most important first", "any": "any order", "least": "least important first"}
    for at, what in enumerate(("deletion", "insertion")):
        for order, name in named.items():
            axes[at].plot(
                range(len(TERRITORIES) + 1), of[what]["logit"][order], color=_COLOURS[order], marker="o", label=name
            )
        axes[at].set(xlabel=f"territories {'taken from' if what == 'deletion' else 'put into'} a donor", title=what)
        axes[at].set_xticks(range(len(TERRITORIES) + 1))
    axes[0].set_ylabel("mean logit")
    axes[0].legend(frameon=False, fontsize=8)
    return png(figure, dpi=120)


def _cohort(found: Mapping[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    operators = {name: of[MAIN_TASK] for name, of in found["cohort"].items() if MAIN_TASK in of}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    width = [len(of) for of in operators.values()] or [1]
    axes = figure.subplots(1, len(width), sharey=True, squeeze=False, width_ratios=width)[0]
    for place, (operator, of_part) in zip(axes, operators.items(), strict=False):
        _bars(place, of_part)
        place.set_title(operator, fontsize=10)
    axes[0].set_ylabel("AUROC lost when permuted (95%)")
    return png(figure, dpi=120)


def _bars(axes: Axes, of_part: Mapping[str, Any]) -> None:
    lost = [of["auroc"] for of in of_part.values()]
    below = [max(0.0, of["value"] - of["low"]) for of in lost]
    above = [max(0.0, of["high"] - of["value"]) for of in lost]
    axes.bar(range(len(lost)), [of["value"] for of in lost], color="#bbbbbb")
    axes.errorbar(
        range(len(lost)), [of["value"] for of in lost], yerr=[below, above], fmt="none", ecolor=INK, capsize=2
    )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(lost)), list(of_part), rotation=60, fontsize=8)
