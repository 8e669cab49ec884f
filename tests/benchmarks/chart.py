"""Draw the ratios of `make bench`, with their ranges and aims, from its JSON.

python -m tests.benchmarks.chart BENCH.json docs/bench.png
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
from pathlib import Path
from typing import Any

MET, MISSED, PLAIN = "#1b7837", "#c51b7d", "#4d4d4d"
WIDTH = 74
"""Characters of a label's line."""


def bounds(aim: str) -> tuple[float, float] | None:
    """Return the lowest and the highest ratio that meets an aim, None where the aim is no number.

    >>> bounds(">= 0.85"), bounds("<= 1"), bounds("0.8-1.25"), bounds("flat")
    ((0.85, inf), (0.0, 1.0), (0.8, 1.25), None)
    """
    if found := re.fullmatch(r"(>=|<=) *([\d.]+)", aim):
        value = float(found[2])
        return (value, math.inf) if found[1] == ">=" else (0.0, value)
    if found := re.fullmatch(r"([\d.]+)-([\d.]+)", aim):
        return float(found[1]), float(found[2])
    return None


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a benchmark's JSON that have a ratio, in its order."""
    rows = [row for report in found["benchmarks"].values() for row in report["rows"]]
    return [row for row in rows if row["ratio"] and row["ratio"]["median"]]


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw the picture; its kind is that of the file's suffix."""
    from matplotlib.figure import Figure

    rows = rows_of(found)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        ratio, aim = row["ratio"], bounds(row["aim"])
        met = aim is not None and aim[0] <= ratio["median"] <= aim[1]
        colour = PLAIN if aim is None else MET if met else MISSED
        axes.plot(
            [ratio["low"], ratio["high"]], [at, at], color=colour, linewidth=3, alpha=0.45, solid_capstyle="round"
        )
        axes.plot(ratio["median"], at, "o", color=colour, markersize=6)
        for limit in aim or ():
            if 0 < limit < math.inf:
                axes.plot([limit, limit], [at - 0.32, at + 0.32], color="black", linewidth=1.4)
        axes.annotate(
            f"{ratio['median']:.3g}",
            (1.01, at),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontsize=8,
        )
    axes.set_xscale("log")
    lows, highs = [row["ratio"]["low"] for row in rows], [row["ratio"]["high"] for row in rows]
    aims = [limit for row in rows for limit in bounds(row["aim"]) or () if 0 < limit < math.inf]
    axes.set_xlim(min(0.1, min(lows + aims) / 1.3), max(10, 1.3 * max(highs + aims)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(row["what"], WIDTH)) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(1, color="0.8", linewidth=0.8, zorder=0)
    axes.grid(axis="x", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    where = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items() if name in ("torch", "ray"))
    axes.set_xlabel(
        f"ratio, median and range; black: the aim; green: met, purple: missed, grey: no aim\n"
        f"{where['cores']} cores, {where['processor']}, Python {where['python']}, {versions}",
        fontsize=8,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("json", type=Path, help="what `python -m tests.benchmarks --json` wrote")
    parser.add_argument("out", type=Path, help="picture (png or svg)")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text()), options.out)


if __name__ == "__main__":
    main()
