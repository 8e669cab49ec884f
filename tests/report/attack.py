"""An intruder: everything that can be worked out from what a report shows, by linear programs written apart from the code.

The intruder knows how the tables hang together and is granted every shown count exactly (rounding protects besides). He also
knows that a hidden count is not 0 where the totals of its row and of its column are shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from screening.contract import PREFIX_OF
from screening.report.disclosure import COARSE, Protected, Released
from screening.report.tallies import LEADING, CountTable, Importance, Tallies

Name = tuple[str, ...]
OVERLAPPING = ("year", "month")  # a patient may be counted in several


class Intruder:
    """Collects what is known; ``interval`` gives the least and the largest value that a count may have."""

    def __init__(self) -> None:
        self.at: dict[Name, int] = {}
        self.truth: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.equal: list[dict[int, float]] = []
        self.most: list[dict[int, float]] = []  # sums that are at most 0

    def count(self, name: Name, truth: float, *, shown: bool, least: float = 0) -> int:
        if name not in self.at:
            self.at[name] = len(self.truth)
            self.truth.append(truth)
            self.low.append(least)
            self.high.append(np.inf)
        i = self.at[name]
        assert self.truth[i] == truth, name
        if shown:
            self.low[i] = self.high[i] = truth
        return i

    def known(self, name: Name) -> bool:
        return name in self.at and self.low[self.at[name]] == self.high[self.at[name]]

    def parts(self, whole: Name, parts: list[Name], relation: str = "=") -> None:
        row: dict[int, float] = defaultdict(float)
        row[self.at[whole]] -= 1
        for part in parts:
            row[self.at[part]] += 1
        total = sum(self.truth[i] * weight for i, weight in row.items())
        if relation == "=":
            assert total == 0, (whole, parts)
            self.equal.append(row)
        elif relation == ">=":  # the parts overlap
            assert total >= 0, (whole, parts)
            self.most.append({i: -weight for i, weight in row.items()})
        else:
            assert total <= 0, (whole, parts)
            self.most.append(row)

    def _matrix(self, rows: list[dict[int, float]]) -> csr_matrix | None:
        if not rows:
            return None
        line = [i for i, row in enumerate(rows) for _ in row]
        return csr_matrix(
            ([w for row in rows for w in row.values()], (line, [i for row in rows for i in row])),
            shape=(len(rows), len(self.truth)),
        )

    def interval(self, weights: Mapping[Name, float]) -> tuple[float, float]:
        cost = np.zeros(len(self.truth))
        for name, weight in weights.items():
            cost[self.at[name]] = weight
        ends = []
        for sign in (1, -1):
            equal, most = self._matrix(self.equal), self._matrix(self.most)
            solved = linprog(
                sign * cost,
                A_eq=equal,
                b_eq=None if equal is None else np.zeros(equal.shape[0]),
                A_ub=most,
                b_ub=None if most is None else np.zeros(most.shape[0]),
                bounds=np.column_stack((self.low, self.high)),
                method="highs",
            )
            assert solved.status in (0, 3, 4), solved.message
            ends.append(sign * solved.fun if solved.status == 0 else -sign * np.inf)
        return ends[0], ends[1]


def _names(night: str, family: str, dimension: str, table: CountTable) -> Iterator[tuple[Name, int, int]]:
    for r, row in enumerate(table.rows):
        for c, column in enumerate(table.columns):
            yield (night, family, dimension, row, column), r, c


def learn(intruder: Intruder, tallies: Tallies, released: Released, night: str = "") -> None:
    """Add a report's tables, and how they hang together, to what the intruder knows."""
    families: dict[str, Mapping[str, CountTable]] = {
        "records": tallies.records,
        "reasons": tallies.reasons,
        "patients": tallies.patients,
    }
    for family, tables in families.items():
        shown: Mapping[str, Protected] = getattr(released, family)
        for dimension, table in tables.items():
            _table(intruder, night, family, dimension, table, shown[dimension], shown)
    _margins(intruder, night, families)
    for dimension, table in tallies.records.items():
        for row in table.rows:
            if dimension in tallies.reasons:
                intruder.parts(
                    (night, "records", dimension, row, "rejected"), [(night, "reasons", dimension, row, "*")]
                )
            if dimension in tallies.patients:
                intruder.parts(
                    (night, "records", dimension, row, "scored"), [(night, "patients", dimension, row, "*")], "<="
                )
    _flow(intruder, night, tallies, released)
    _importance(intruder, night, tallies, released)
    for r, row in enumerate(tallies.quality_flags.rows):
        for c, column in enumerate(tallies.quality_flags.columns):
            there = released.quality_flags.shown(row, column) is not None
            intruder.count((night, "quality", row, column), int(tallies.quality_flags.counts[r, c]), shown=there)
        parts = [(night, "quality", row, column) for column in tallies.quality_flags.columns]
        intruder.parts((night, "records", "all", "all", "scored"), parts)


def _table(
    intruder: Intruder,
    night: str,
    family: str,
    dimension: str,
    table: CountTable,
    shown: Protected,
    tables: Mapping[str, Protected],
) -> None:
    for r, row in enumerate(table.rows):
        total = shown.row_total(row) is not None
        for c, column in enumerate(table.columns):
            there = shown.shown(row, column) is not None
            sure = total and not shown.given_up and dimension != "all"
            for wider, whole in _wholes(dimension, row):
                sure = sure and tables[wider].shown(whole, column) is not None
            intruder.count(
                (night, family, dimension, row, column),
                int(table.counts[r, c]),
                shown=there,
                least=float(sure and not there),
            )
        intruder.count((night, family, dimension, row, "*"), int(table.counts[r].sum()), shown=total)
        cells = [(night, family, dimension, row, column) for column in table.columns]
        intruder.parts((night, family, dimension, row, "*"), cells)


def _wholes(dimension: str, row: str) -> list[tuple[str, str]]:
    """Return the rows of other tables that a row is a part of."""
    if dimension == "month":
        return [("year", row if row.startswith("(") else row[:4])]
    if dimension == "age and sex":
        return list(zip(("age", "sex"), row.split("|"), strict=True))
    return [("all", "all")]


def _margins(intruder: Intruder, night: str, families: Mapping[str, Mapping[str, CountTable]]) -> None:
    for family, tables in families.items():
        for dimension, table in tables.items():
            overlap = family == "patients" and dimension in OVERLAPPING
            for column in (*table.columns, "*"):
                cells = [(night, family, dimension, row, column) for row in table.rows]
                if dimension != "all":
                    intruder.parts((night, family, "all", "all", column), cells, ">=" if overlap else "=")
                if dimension == "month":
                    for year in tables["year"].rows:
                        within = [cell for cell in cells if cell[3].startswith(year)]
                        whole = (night, family, "year", year, column)
                        intruder.parts(whole, within, ">=" if overlap else "=")
                        for cell in within if column == "*" or not overlap else ():
                            intruder.parts(whole, [cell], "<=")
                if dimension == "age and sex":
                    for side, name in enumerate(("age", "sex")):
                        for whole_row in tables[name].rows:
                            within = [cell for cell in cells if cell[3].split("|")[side] == whole_row]
                            intruder.parts((night, family, name, whole_row, column), within)


def _flow(intruder: Intruder, night: str, tallies: Tallies, released: Released) -> None:
    for name, count in tallies.flow.items():
        i = intruder.count((night, "flow", name), count, shown=released.flow[name] is not None)
        if name in released.about:  # a coarse number: he knows its step from its neighbours, at best
            half = (
                next(
                    step
                    for step in COARSE
                    if released.about[name] % step == 0 and abs(count - released.about[name]) <= step // 2
                )
                // 2
            )
            intruder.low[i], intruder.high[i] = released.about[name] - half, released.about[name] + half
    everybody: list[tuple[str, Name]] = [
        (name, (night, "records", "all", "all", name)) for name in ("scored", "rejected", "not_screened", "changed")
    ]
    for name, cell in [*everybody, ("index", (night, "patients", "all", "all", "*"))]:
        intruder.parts(cell, [(night, "flow", name)])
    for whole, parts in (
        ("catalogued", ("outside_period", "not_screened", "changed", "rejected", "scored")),
        ("scored", ("duplicates", "repeats", "index")),
        ("patients_catalogued", ("patients_without_score", "patients_with_score")),
        ("patients_with_score", ("index",)),
    ):
        intruder.parts((night, "flow", whole), [(night, "flow", part) for part in parts])


def _importance(intruder: Intruder, night: str, tallies: Tallies, released: Released) -> None:
    """What each operator explained adds up; whom one explained and another did not is a group too.

    Waves have no counts of their own: the number beside them must be that of the territories.
    """
    held: dict[tuple[str, str], dict[str, Importance]] = defaultdict(dict)
    for truth, shown in zip(tallies.importance, released.importance, strict=True):
        assert (truth.operator, truth.dimension, truth.category) == (shown.operator, shown.dimension, shown.category)
        held[truth.dimension, truth.category][truth.operator] = truth
        if not LEADING[truth.operator]:
            assert shown.leading is shown.sd is None
            continue
        base = (night, PREFIX_OF[truth.operator], truth.dimension, truth.category)
        intruder.count((*base, "*"), truth.patients, shown=shown.patients is not None)
        for i, part in enumerate(LEADING[truth.operator]):
            there = shown.leading is not None and shown.leading[i] is not None
            intruder.count((*base, part), int(truth.leading[i]), shown=there)
        intruder.parts((*base, "*"), [(*base, part) for part in LEADING[truth.operator]])
        flagged = [name for name in tallies.patients["all"].columns if name.startswith("flagged")]
        if len(flagged) == 1:
            intruder.parts((night, "patients", truth.dimension, truth.category, flagged[0]), [(*base, "*")], "<=")
    for (dimension, category), of in held.items():
        more, less = of["lead"], of["territory"]
        rest = (night, "lead without territory", dimension, category)
        intruder.count(rest, more.patients - less.patients, shown=False)
        whole, part = ((night, PREFIX_OF[one.operator], dimension, category, "*") for one in (more, less))
        intruder.parts(whole, [part, rest])
    for operator, parts in LEADING.items():
        for dimension in ("sex", "site"):
            for column in (*parts, "*") if parts else ():
                rows = [category for of, category in held if of == dimension]
                cells = [(night, PREFIX_OF[operator], dimension, category, column) for category in rows]
                intruder.parts((night, PREFIX_OF[operator], "all", "all", column), cells)


def small(intruder: Intruder, threshold: int) -> list[Name]:
    """Return the counts that must stay unknown."""
    return [name for name, i in intruder.at.items() if 1 <= intruder.truth[i] <= threshold]


def attack(
    tallies: Tallies, released: Released, threshold: int, *, most: int | None = None, seed: int = 0
) -> dict[Name, tuple[float, float]]:
    """Return every small count (or ``most`` of them, by chance) that the release narrows down to less than 1 to threshold."""
    intruder = Intruder()
    learn(intruder, tallies, released)
    return _narrowed(intruder, [({name: 1.0}, name) for name in small(intruder, threshold)], threshold, most, seed)


def attack_two(
    nights: list[tuple[Tallies, Released]],
    threshold: int,
    *,
    only_grew: bool = False,
    most: int | None = None,
    seed: int = 0,
) -> dict[Name, tuple[float, float]]:
    """Attack two nights' releases together: the small counts of both and the small differences between them.

    ``only_grew``: the intruder also knows that no count fell (where that is so).
    """
    intruder = Intruder()
    for i, (tallies, released) in enumerate(nights):
        learn(intruder, tallies, released, str(i))
    targets = [({name: 1.0}, name) for name in small(intruder, threshold)]
    for name in [name for name in intruder.at if name[0] == "1"]:
        before = ("0", *name[1:])
        if before not in intruder.at:
            continue
        change = intruder.truth[intruder.at[name]] - intruder.truth[intruder.at[before]]
        if 1 <= abs(change) <= threshold:
            sign = float(np.sign(change))
            targets.append(({name: sign, before: -sign}, ("change", *name[1:])))
        if only_grew and change >= 0:
            intruder.most.append({intruder.at[before]: 1.0, intruder.at[name]: -1.0})
    return _narrowed(intruder, targets, threshold, most, seed)


def _narrowed(
    intruder: Intruder, targets: list[tuple[dict[Name, float], Name]], threshold: int, most: int | None, seed: int
) -> dict[Name, tuple[float, float]]:
    if most is not None and len(targets) > most:
        targets = [targets[i] for i in np.random.default_rng(seed).choice(len(targets), most, replace=False)]
    found = {}
    for weights, name in targets:
        low, high = intruder.interval(weights)
        if low > 1 + 1e-6 or high < threshold - 1e-6:
            found[name] = (low, high)
    return found


def small_numbers(report: Any, threshold: int) -> list[str]:
    """Return where a finished report.json shows a whole number from 1 to ``threshold`` in a column of counts."""
    found: list[str] = []

    for section in report["sections"]:
        for block in section["blocks"]:
            counts = [column["key"] for column in block.get("columns", ()) if column["kind"] == "count"]
            for row in block.get("records", ()):
                found += [
                    f"{section['key']}, {block['key']}, {key}: {row[key]}"
                    for key in counts
                    if isinstance(row[key], int | float) and 1 <= row[key] <= threshold
                ]
    return found
