"""The figures of a report as one linear system: which count is the sum of which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from screening.contract import PREFIX_OF
from screening.report.suppression import Figures
from screening.report.tallies import LEADING, CountTable, Tallies

Key = tuple[str, str, str, str]
"""Family, dimension, row, column of a figure; the column is "*" for a row's total."""
FAMILIES = ("records", "reasons", "patients")
IMPORTANCES = tuple(PREFIX_OF[operator] for operator, parts in LEADING.items() if parts)
"""Families of counts of patients by the part that leads."""

_COSTS = {"all": 200.0, "flow": 200.0, "sex": 4.0, "age": 3.0, "year": 3.0, "runs": 50.0}
"""What hiding a figure of a dimension costs, where it is not 1."""
_DEAR = 5.0


# --- The system of sums ----------------------------------------------------------------------------------------------


class System:
    """All figures of a report by key, and every sum that an intruder can rely on."""

    def __init__(self, tallies: Tallies) -> None:
        self.index: dict[Key, int] = {}
        self.values: list[int] = []
        self.published: list[bool] = []
        self.sensitive: list[bool] = []
        self.names: list[Key] = []
        self.tables: dict[tuple[str, str], int] = {}
        self.sums: list[tuple[int, list[int]]] = []
        self.models = tuple(one.bundle_sha256 for one in tallies.models)
        self.done: dict[str, list[str]] = {}
        for family in FAMILIES:
            tables: Mapping[str, CountTable] = getattr(tallies, family)
            for dimension in sorted(tables, key=lambda name: (name != "all", name == "month")):
                self._table(family, dimension, tables[dimension], tables.get("all"))
                self.done.setdefault(family, []).append(dimension)
        for family in ("records", "patients", "reasons"):
            tables = getattr(tallies, family)
            self._months(family, tables)
        self._age_and_sex(tallies.patients)
        self._models(tallies)
        self._quality(tallies)
        self._links(tallies)
        self._importance(tallies)
        self._flow(tallies)
        self._runs(tallies)

    def figures(self) -> Figures:
        """Return the system as arrays."""
        rows, columns, signs = [], [], []
        for line, (whole, parts) in enumerate(self.sums):
            rows += [line] * (1 + len(parts))
            columns += [whole, *parts]
            signs += [-1.0, *([1.0] * len(parts))]
        n = len(self.values)
        matrix = csr_matrix((signs, (rows, columns)), shape=(len(self.sums), n))
        matrix.sort_indices()
        costs = [_COSTS.get(key[1] if key[0] != "flow" else "flow", 1.0) * _part_cost(key) for key in self.names]
        tables = [self.tables.get(key[:2], -1) for key in self.names]
        margins = [key[0] in ("flow", "runs") or (key[1] == "all" and key[0] in FAMILIES) for key in self.names]
        return Figures(
            values=np.array(self.values, dtype=np.int64),
            sums=matrix,
            published=np.array(self.published, dtype=bool),
            costs=np.array(costs),
            tables=np.array(tables),
            margins=np.array(margins, dtype=bool),
        )

    def column(self, name: str) -> str:
        """Return a column's name in keys: a model's by its bundle, so that another model's flags are other counts."""
        what, _, number = name.partition(" ")
        if what in ("flagged", "unflagged") and number.isdigit() and int(number) < len(self.models):
            return f"{what} {self.models[int(number)]}"
        return name

    def _add(self, key: Key, value: int, *, published: bool = True, sensitive: bool = True) -> int:
        if key not in self.index:
            self.index[key] = len(self.values)
            self.values.append(int(value))
            self.published.append(published)
            self.sensitive.append(sensitive)
            self.names.append(key)
            if published:
                self.tables.setdefault(key[:2], len(self.tables))
        return self.index[key]

    def _same(self, key: Key, value: int, other: int | None) -> int:
        """Name a figure that is ``other`` under another name, if it has the same value."""
        if other is not None and self.values[other] == value:
            self.index[key] = other
            return other
        return self._add(key, value)

    def _hidden(self, name: str, value: int, *, sensitive: bool = False) -> int:
        return self._add(("unpublished", "", name, str(len(self.values))), value, published=False, sensitive=sensitive)

    def _sum(self, whole: int, parts: Sequence[int]) -> None:
        """Note whole = parts; where parts overlap, or are not all there, whole + overlap = parts or whole = parts + rest."""
        over = sum(self.values[part] for part in parts) - self.values[whole]
        if not parts or list(parts) == [whole]:
            return
        if over > 0:
            together = self._hidden("together", self.values[whole] + over)
            self.sums.append((together, list(parts)))
            self.sums.append((together, [whole, self._hidden("overlap", over)]))
        elif over < 0:
            self.sums.append((whole, [*parts, self._hidden("rest", -over)]))
        else:
            self.sums.append((whole, list(parts)))

    def _at_most(self, part: int, whole: int) -> None:
        if part != whole and self.values[part] <= self.values[whole]:
            self.sums.append((whole, [part, self._hidden("rest", self.values[whole] - self.values[part])]))

    def _get(self, family: str, dimension: str, row: str, column: str) -> int | None:
        return self.index.get((family, dimension, row, column))

    def _table(self, family: str, dimension: str, table: CountTable, everything: CountTable | None) -> None:
        rejected = {"reasons": "rejected"}.get(family)
        for r, row in enumerate(table.rows):
            total = int(table.counts[r].sum())
            linked = self._get("records", dimension, row, rejected) if rejected else None
            whole = self._same((family, dimension, row, "*"), total, linked)
            cells = [
                self._add((family, dimension, row, self.column(column)), int(table.counts[r, c]))
                for c, column in enumerate(table.columns)
            ]
            if len(cells) == 1:
                self._equal(cells[0], whole)
            else:
                self._sum(whole, cells)
        if dimension == "all" and everything is not None and len(everything.rows) == 1:
            return
        if dimension == "month" and "year" in self.done.get(family, ()):
            return  # months add up to years and these to all
        for column in (*(self.column(name) for name in table.columns), "*"):
            cells = [self.index[family, dimension, row, column] for row in table.rows]
            if everything is None:
                if table.partition and len(cells) > 1:
                    self._sum(
                        self._add((family, dimension, "*", column), sum(self.values[cell] for cell in cells)), cells
                    )
            elif (
                len(everything.rows) == 1
                and (whole_ := self._get(family, "all", everything.rows[0], column)) is not None
            ):
                self._sum(whole_, cells)

    def _equal(self, one: int, other: int) -> None:
        if one != other and self.values[one] == self.values[other]:
            self.sums.append((other, [one]))

    def _months(self, family: str, tables: Mapping[str, CountTable]) -> None:
        months, years = tables.get("month"), tables.get("year")
        if months is None or years is None:
            return
        parents = months.parents or tuple(row[:4] if row[:1].isdigit() else row for row in months.rows)
        for year in years.rows:
            rows = [row for row, parent in zip(months.rows, parents, strict=True) if parent == year]
            for column in (*(self.column(name) for name in months.columns), "*"):
                whole = self._get(family, "year", year, column)
                cells = [self.index[family, "month", row, column] for row in rows]
                if whole is not None and cells:
                    self._sum(whole, cells)
                    if family == "patients" and column == "*" and len(cells) > 1:
                        for cell in cells:
                            self._at_most(cell, whole)

    def _age_and_sex(self, tables: Mapping[str, CountTable]) -> None:
        both = tables.get("age and sex")
        if both is None:
            return
        for side, dimension in enumerate(("age", "sex")):
            if dimension not in tables:
                continue
            for whole_row in tables[dimension].rows:
                rows = [row for row in both.rows if row.rpartition("|")[2 * side] == whole_row]
                for column in (*(self.column(name) for name in both.columns), "*"):
                    whole = self._get("patients", dimension, whole_row, column)
                    if whole is not None and rows:
                        self._sum(whole, [self.index["patients", "age and sex", row, column] for row in rows])

    def _models(self, tallies: Tallies) -> None:
        """Patients scored by each model are known from its histogram of scores."""
        table = tallies.patients.get("all")
        if table is None or len(table.rows) != 1 or len(self.models) < 2:
            return
        for sha in self.models:
            flags = [self._get("patients", "all", table.rows[0], f"{what} {sha}") for what in ("flagged", "unflagged")]
            cells = [cell for cell in flags if cell is not None]
            whole = self._add(
                ("patients", "all", table.rows[0], f"model {sha}"), sum(self.values[cell] for cell in cells)
            )
            self._sum(whole, cells)

    def _quality(self, tallies: Tallies) -> None:
        table, scored = tallies.quality_flags, self._everybody(tallies.records, "records", "scored")
        for r, row in enumerate(table.rows):
            whole = self._same(("quality", "all flags", row, "*"), int(table.counts[r].sum()), scored)
            self._sum(
                whole,
                [
                    self._add(("quality", "all flags", row, name), int(n))
                    for name, n in zip(table.columns, table.counts[r], strict=True)
                ],
            )

    def _everybody(self, tables: Mapping[str, CountTable], family: str, column: str) -> int | None:
        table = tables.get("all")
        return self._get(family, "all", table.rows[0], column) if table is not None and len(table.rows) == 1 else None

    def _links(self, tallies: Tallies) -> None:
        """Every patient of a category has a scored record in it."""
        for dimension, table in tallies.patients.items():
            for row in table.rows:
                scored = self._get("records", dimension, row, "scored")
                if scored is not None:
                    self._at_most(self.index["patients", dimension, row, "*"], scored)

    def _importance(self, tallies: Tallies) -> None:
        """Each operator's explained patients are flagged ones, and add up over the parts that lead and over categories.

        Operators explain the same patients as a rule: equal counts are one figure. Of patients whom one operator explained and
        another did not, the few are protected like any few. How many had beats, so that waves could be exchanged, is no figure.
        """
        counted = [one for one in tallies.importance if LEADING[one.operator]]
        explained: dict[tuple[str, str], int] = {}
        for one in sorted(counted, key=lambda one: (one.dimension != "all", -one.patients)):
            base = (PREFIX_OF[one.operator], one.dimension, one.category)
            more = explained.get(base[1:])
            whole = self._same((*base, "*"), one.patients, more)
            if more is None:
                explained[base[1:]] = whole
                flagged = self._flagged(tallies, one.dimension, one.category)
                if flagged is not None:
                    self._at_most(whole, flagged)
            elif whole != more:
                rest = self._hidden("explained otherwise", self.values[more] - one.patients, sensitive=True)
                self.sums.append((more, [whole, rest]))
            parts = zip(LEADING[one.operator], one.leading, strict=True)
            self._sum(whole, [self._add((*base, part), int(n)) for part, n in parts])
        for operator in {one.operator for one in counted}:
            family = PREFIX_OF[operator]
            for dimension in ("sex", "site"):
                rows = [one.category for one in counted if (one.operator, one.dimension) == (operator, dimension)]
                for column in (*LEADING[operator], "*"):
                    cells = [self.index[family, dimension, row, column] for row in rows]
                    if cells:
                        self._sum(self.index[family, "all", "all", column], cells)

    def _flagged(self, tallies: Tallies, dimension: str, category: str) -> int | None:
        """Return the flagged patients of a category, by whichever model."""
        table = tallies.patients.get("all")
        if dimension == "all" and table is not None and len(table.rows) == 1:
            category = table.rows[0]
        flagged = [self._get("patients", dimension, category, f"flagged {sha}") for sha in self.models]
        cells = [cell for cell in flagged if cell is not None]
        if len(cells) < 2:
            return cells[0] if cells else None
        together = self._hidden("flagged", sum(self.values[cell] for cell in cells))
        self._sum(together, cells)
        return together

    def _flow(self, tallies: Tallies) -> None:
        flow = {name: int(count) for name, count in tallies.flow.items()}
        same = {
            name: self._everybody(tallies.records, "records", name)
            for name in ("not_screened", "changed", "rejected", "scored")
        }
        same["index"] = same["patients_with_score"] = self._everybody(tallies.patients, "patients", "*")
        at = {name: self._same(("flow", "", name, ""), count, same.get(name)) for name, count in flow.items()}
        exact = (
            ("catalogued", ("outside_period", "not_screened", "changed", "rejected", "scored")),
            ("scored", ("duplicates", "repeats", "index")),
            ("patients_catalogued", ("patients_without_score", "patients_with_score")),
        )
        for whole, parts in exact:
            if (
                whole in flow
                and all(part in flow for part in parts)
                and flow[whole] == sum(flow[part] for part in parts)
            ):
                self._sum(at[whole], [at[part] for part in parts])
        in_frame = self._everybody(tallies.records, "records", "*")
        if in_frame is not None and "catalogued" in flow and "outside_period" in flow:
            self._sum(at["catalogued"], [at["outside_period"], in_frame])
        if in_frame is not None:
            self._undated(tallies, flow, at)
        for part, whole in (
            ("undated", "catalogued"),
            ("future_dated", "catalogued"),
            ("without_patient_key", "catalogued"),
            ("seen_in_training", "index"),
        ):
            if part in flow and whole in flow and 0 < flow[part] <= flow[whole]:
                rest = self._hidden(f"not {part}", flow[whole] - flow[part], sensitive=True)
                self.sums.append((at[whole], [at[part], rest]))

    def _undated(self, tallies: Tallies, flow: Mapping[str, int], at: Mapping[str, int]) -> None:
        """Note that records without a usable date are the row of unknown years and months."""
        for dimension in ("year", "month"):
            unknown = (
                [row for row in tallies.records[dimension].rows if row.startswith("(")]
                if dimension in tallies.records
                else []
            )
            for parts in (("undated",), ("undated", "future_dated")):
                if len(unknown) == 1 and all(part in flow for part in parts):
                    whole = self.index["records", dimension, unknown[0], "*"]
                    if self.values[whole] == sum(flow[part] for part in parts):
                        self.sums.append((whole, [at[part] for part in parts]))
                        break

    def _runs(self, tallies: Tallies) -> None:
        """Scored records of each run are known from the histograms of its features."""
        totals: dict[str, int] = {}
        for by_run in tallies.features.values():
            for run, one in by_run.items():
                totals[run] = max(totals.get(run, 0), int(one.counts.sum()) + int(one.missing))
        scored = self._everybody(tallies.records, "records", "scored")
        if len(totals) == 1:
            self._same(("runs", "runs", next(iter(totals)), "*"), next(iter(totals.values())), scored)
        elif totals:
            cells = [self._add(("runs", "runs", run, "*"), total) for run, total in totals.items()]
            if scored is not None:
                self._sum(scored, cells)


def _part_cost(key: Key) -> float:
    """Prefer to show how many patients a row has; of records, how many were scored, which bounds the patients anyway."""
    if key[2] == "*":
        return _DEAR**2
    return _DEAR if key[3] == ("scored" if key[0] == "records" else "*") else 1.0
