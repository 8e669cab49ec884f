"""Which figures of a linear system must be hidden so that no small one can be worked out from the others.

The figures of a report hang together by sums: rows and columns of a table, months of a year, the flow. With A the matrix of
these sums (whole = parts), an intruder who sees some figures knows of the hidden ones that A x = 0, that none is below its
floor, and nothing else. A figure is protected when among the tables that are possible for him there are whole-numbered ones
in which it is as low as `low` and ones in which it is as high as `high`. Such a table is the true one plus a change z with
A z = 0 that moves hidden figures only. `suppress` looks for these changes and, where there is none, for the cheapest one that
moves shown figures too, which are then hidden (complementary suppression by flows and linear programs: Cox 1980, J Am Stat
Assoc 75:377; Kelly, Golden and Assad 1992, Networks 22:397; Hundepool et al. 2012, Statistical Disclosure Control, chapter 4).
So the result comes with its own audit: what was hidden is protected by a table that was found, not by a rule of thumb.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csc_matrix, csr_matrix, hstack
from scipy.sparse.csgraph import connected_components

INTEGER = 1e-6
"""A solution within this of whole numbers is one."""
REWARD = 30.0
"""What moving a figure by 1 is worth when several are moved at once: more than hiding a few cells, less than a total of all."""
WIDTHS = (32, 8, 2, 1, 0)
"""How many figures of a sum are moved at once; those that did not move are tried among fewer, at last (0) at a price."""
SLOW_SECONDS = 2.0
"""A whole-number program that takes longer counts as one without a solution: more is hidden instead."""


@dataclass(frozen=True)
class Figures:
    """Figures and the sums between them."""

    values: np.ndarray  # int64 (n,)
    sums: csr_matrix  # (equations, n): +1 for a part, -1 for the whole; sums @ values == 0
    published: np.ndarray  # bool (n,); False: never shown (an overlap, a rest)
    costs: np.ndarray  # float64 (n,), what hiding costs
    tables: np.ndarray  # int64 (n,), which table a figure stands in; -1: in none
    margins: np.ndarray  # bool (n,), figures of everybody: hidden for their own kind's sake only


@dataclass
class Suppression:
    """What is hidden. It only ever grows, so that what was protected once stays so."""

    hidden: np.ndarray  # bool (n,), including what is never published
    floor: np.ndarray  # int64 (n,), the least an intruder holds possible
    given_up: set[int]  # tables of which nothing is shown

    def give_up(self, figures: Figures, table: int) -> None:
        """Hide a table with its zeros, so that not even their being zeros is known."""
        inside = figures.tables == table
        self.given_up.add(table)
        self.hidden |= inside
        self.floor[inside] = np.minimum(self.floor[inside], 0)


def complete_lines(figures: Figures, state: Suppression, high: np.ndarray) -> None:
    """Hide so much more that no sum has a single hidden figure, or too small a group of them. A start for `suppress`.

    ``high`` int64 (n,) is the value a figure must be able to have; where it is not above the figure, nothing is asked.
    """
    sums, lines_of = figures.sums, csc_matrix(figures.sums)
    members = [sums.indices[sums.indptr[i] : sums.indptr[i + 1]] for i in range(sums.shape[0])]
    whole = [int(m[sums.data[sums.indptr[i] : sums.indptr[i + 1]] < 0][0]) for i, m in enumerate(members)]
    hidden_in = np.array([int(state.hidden[m].sum()) for m in members], dtype=np.int64)
    values, costs = figures.values, figures.costs * np.log1p(figures.values)
    queue, queued = deque(range(len(members))), np.ones(len(members), dtype=bool)

    def lines(figure: int) -> np.ndarray:
        return lines_of.indices[lines_of.indptr[figure] : lines_of.indptr[figure + 1]]

    def price(figure: int, here: int) -> float:
        bare = sum(1 for line in lines(figure) if line != here and hidden_in[line] == 0)
        return float(costs[figure]) * (1 + 2 * bare)

    while queue:
        line = queue.popleft()
        queued[line] = False
        inside = members[line]
        hidden = inside[state.hidden[inside]]
        if not len(hidden) or not (figures.published[hidden] | (high[hidden] > values[hidden])).any():
            continue
        spare = values[hidden] - state.floor[hidden]
        short = 0
        if not state.hidden[whole[line]]:
            short = int((high[hidden] - values[hidden] - (spare.sum() - spare)).max())
        if len(hidden) >= 2 and short <= 0:
            continue
        spared = figures.margins if not figures.margins[hidden].all() else np.zeros(len(values), dtype=bool)
        shown = [int(i) for i in inside if not state.hidden[i] and values[i] > 0 and not spared[i]]
        enough = [i for i in shown if values[i] - 1 >= short or i == whole[line]]
        if not enough:
            continue  # the programs of `suppress` decide
        choice = min(enough, key=lambda figure: price(figure, line))
        state.hidden[choice] = True
        for other in lines(choice):
            hidden_in[other] += 1
            if not queued[other]:
                queue.append(int(other))
                queued[other] = True


def suppress(
    figures: Figures, state: Suppression, low: np.ndarray, high: np.ndarray, *, floor: np.ndarray | None = None
) -> np.ndarray:
    """Hide more in ``state``, until every figure can be as low as ``low`` and as high as ``high``.

    Where no hiding of single figures does it, the figure's table is given up; where that does not help either, every figure
    that hangs together with it. With a ``floor`` that intruder is kept from what he can be kept from, and nothing is given up.

    Parameters
    ----------
    low, high
        int64 (n,); low <= values <= high; equal to the values where nothing is asked.
    floor
        int64 (n,), a higher floor than that of ``state``, for an intruder who knows more.

    Returns
    -------
    bool (n,), for which it was not reached; without a ``floor`` for none but those of which nothing linked is shown.
    """
    missed = np.zeros(len(figures.values), dtype=bool)
    lines_of = csc_matrix(figures.sums)
    for sign, goal in ((1, high), (-1, low)):
        wanted = np.abs(goal - figures.values)
        pending = np.flatnonzero(wanted > 0)
        width = np.full(len(wanted), WIDTHS[0])
        while len(pending):
            least = _least(figures, state, floor)
            widest = int(width[pending].max())
            chosen = _apart(lines_of, pending[width[pending] == widest], max(widest, 1))
            if widest:
                change = _together(figures, state, least, chosen, sign * wanted)
                width[chosen] = WIDTHS[WIDTHS.index(widest) + 1]
                pending = pending[sign * change[pending] < wanted[pending]]
                continue
            dearer = _dearer(figures, state, least, chosen, sign * wanted)
            one = chosen[:1]
            if dearer is None:
                dearer = _one(figures, state, least, one, sign * wanted[one])
            if dearer is not None:
                state.hidden |= dearer != 0
                pending = pending[sign * dearer[pending] < wanted[pending]]
            elif floor is not None or not _last_resort(figures, state, int(one[0])):
                missed[one] = True
                pending = pending[pending != one[0]]
            width[pending] = WIDTHS[1]  # what was hidden may have freed them
    return missed


def _apart(lines_of: Any, pending: np.ndarray, width: int) -> np.ndarray:
    """Return as many of ``pending`` as have no sum in common with ``width`` others, so that one change may move them all."""
    used: Counter[int] = Counter()
    chosen = []
    for figure in pending:
        lines = lines_of.indices[lines_of.indptr[figure] : lines_of.indptr[figure + 1]].tolist()
        if all(used[line] < width for line in lines):
            used.update(lines)
            chosen.append(int(figure))
    return np.array(chosen, dtype=np.int64)


def _least(figures: Figures, state: Suppression, floor: np.ndarray | None) -> np.ndarray:
    """Return the most negative change of every figure."""
    lowest = state.floor if floor is None else np.maximum(state.floor, floor)
    return np.minimum(lowest - figures.values, 0)


def _last_resort(figures: Figures, state: Suppression, figure: int) -> bool:
    """Give up the figure's table, or else all that hangs together with it; False where that is done already."""
    table = int(figures.tables[figure])
    if table >= 0 and table not in state.given_up:
        state.give_up(figures, table)
        return True
    _, label = connected_components(_graph(figures.sums), directed=False)
    linked = np.unique(figures.tables[label[: len(figures.values)] == label[figure]])
    rest = [int(other) for other in linked if other >= 0 and int(other) not in state.given_up]
    for other in rest:
        state.give_up(figures, other)
    return bool(rest)


def _graph(sums: Any) -> csr_matrix:
    """Return the adjacency matrix of figures (first) and sums."""
    lines, n = sums.shape
    cells = sums.tocoo()
    return csr_matrix((np.ones(cells.nnz), (cells.col, cells.row + n)), shape=(n + lines, n + lines))


def _together(
    figures: Figures, state: Suppression, least: np.ndarray, chosen: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return a change of hidden figures that brings as many of ``chosen`` as it can where they are wanted."""
    change = np.zeros(len(figures.values))
    free = np.flatnonzero(state.hidden)
    chosen = chosen[state.hidden[chosen]]
    if not len(chosen):
        return change
    price = np.zeros(len(figures.values))
    change[free] = _rewarded(figures, least, chosen, wanted, free, price)
    return change


def _dearer(
    figures: Figures, state: Suppression, least: np.ndarray, chosen: np.ndarray, wanted: np.ndarray
) -> np.ndarray | None:
    """Return the cheapest change, of shown figures too, that does so for those for which it is not too dear; None: for none."""
    free = np.flatnonzero(_movable(figures, state, chosen))
    change = np.zeros(len(figures.values))
    change[free] = _rewarded(figures, least, chosen, wanted, free, _prices(figures, state))
    sign = np.sign(wanted[chosen])
    done = chosen[sign * change[chosen] >= np.abs(wanted[chosen])]
    return _one(figures, state, least, done, wanted[done]) if len(done) else None


def _movable(figures: Figures, state: Suppression, chosen: np.ndarray) -> np.ndarray:
    """Return which figures may change, the shown ones at the price of being hidden."""
    spared = figures.margins & (not figures.margins[chosen].all())
    return state.hidden | (figures.published & (figures.values > 0) & ~spared)


def _prices(figures: Figures, state: Suppression) -> np.ndarray:
    return np.where(state.hidden, 1e-3, figures.costs * np.log1p(figures.values))


def _rewarded(
    figures: Figures, least: np.ndarray, chosen: np.ndarray, wanted: np.ndarray, free: np.ndarray, price: np.ndarray
) -> np.ndarray:
    """Move ``chosen`` as far as wanted and as is worth its price; only ``free`` figures move, to whose length the result is."""
    sums = figures.sums[:, free]
    sums = sums[np.diff(sums.indptr) > 0]
    n, at = len(free), np.searchsorted(free, chosen)
    # A change is up - down, and the part of it that is rewarded a column of its own: so a network stays a network.
    priced = np.flatnonzero(price[free] > 0)
    reach = wanted[chosen].astype(float)
    rank = np.linspace(2, 1, len(chosen))  # so that the first arrive, where there is not enough for all
    up = np.column_stack((least[free].astype(float), np.full(n, np.inf)))
    up[priced, 0] = 0
    rewarded = np.column_stack((np.minimum(reach, 0), np.maximum(reach, 0)))
    rewarded[:, 0] = np.maximum(rewarded[:, 0], least[chosen])
    down = np.column_stack((np.zeros(len(priced)), -least[free][priced].astype(float)))
    up[at] = 0  # those wanted move only the way they are wanted to
    down[np.isin(priced, at)] = 0
    solved = linprog(
        np.concatenate((price[free], price[free][priced], -np.sign(reach) * REWARD * rank)),
        A_eq=hstack((sums, -sums[:, priced], sums[:, at])).tocsr(),
        b_eq=np.zeros(sums.shape[0]),
        bounds=np.vstack((up, down, rewarded)),
        method="highs",
    )
    moved = np.zeros(n)
    if solved.x is None:
        return moved
    moved += solved.x[:n]
    moved[priced] -= solved.x[n : n + len(priced)]
    moved[at] += solved.x[n + len(priced) :]
    return _whole_parts(sums, moved)


def _whole_parts(sums: Any, moved: np.ndarray) -> np.ndarray:
    """Return ``moved`` in whole numbers, 0 in those unconnected parts of the system in which it is not whole."""
    whole = np.round(moved)
    _, label = connected_components(_graph(sums), directed=False)
    label = label[: len(moved)]
    broken = np.unique(label[np.abs(moved - whole) > INTEGER])
    whole[np.isin(label, broken)] = 0
    return whole


def _one(
    figures: Figures, state: Suppression, least: np.ndarray, chosen: np.ndarray, moves: np.ndarray
) -> np.ndarray | None:
    """Return the cheapest whole-numbered change that moves ``chosen`` by ``moves``, near or anywhere; None: there is none."""
    movable = _movable(figures, state, chosen)
    near = movable & (state.hidden | np.isin(figures.tables, figures.tables[chosen]))
    for allowed in (near, movable):
        change = _cheapest(figures, state, least, chosen, moves, np.flatnonzero(allowed))
        if change is not None:
            return change
    return None


def _cheapest(
    figures: Figures,
    state: Suppression,
    least: np.ndarray,
    chosen: np.ndarray,
    moves: np.ndarray,
    free: np.ndarray,
) -> np.ndarray | None:
    if (moves < least[chosen]).any():
        return None
    sums = figures.sums[:, free]
    sums = sums[np.diff(sums.indptr) > 0]
    n, at = len(free), np.searchsorted(free, chosen)
    low, high = np.zeros(2 * n), np.concatenate((np.full(n, np.inf), -least[free].astype(float)))
    low[at], high[at] = np.maximum(moves, 0), np.maximum(moves, 0)
    low[n + at], high[n + at] = np.maximum(-moves, 0), np.maximum(-moves, 0)
    system, cost = hstack((sums, -sums)).tocsr(), np.tile(_prices(figures, state)[free], 2)
    solved = linprog(
        cost, A_eq=system, b_eq=np.zeros(sums.shape[0]), bounds=np.column_stack((low, high)), method="highs"
    )
    if solved.x is not None and np.abs(solved.x - np.round(solved.x)).max() > INTEGER:
        solved = milp(
            cost,
            integrality=np.ones(2 * n),
            bounds=Bounds(low, high),
            constraints=LinearConstraint(system, 0, 0),
            options={"time_limit": SLOW_SECONDS},
        )
    if solved.x is None:
        return None
    change = np.zeros(len(figures.values))
    change[free] = np.round(solved.x[:n]) - np.round(solved.x[n:])
    return change
