"""Which runs may go: those of earlier nights of which no row counts any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from screening.nightly.record import Night
from screening.run.current import Current
from screening.run.duck import MEMORY_MB, database, literal, path_namer
from screening.run.winners import INDEX


def superseded(current: Current, *, memory_mb: int = MEMORY_MB) -> frozenset[str]:
    """Return the runs of the index of which it serves no row."""
    with database(memory_mb=memory_mb) as db:
        path = literal(path_namer(db, current.folder)(current.files[INDEX]["path"]))
        served = {
            run for (run,) in db.execute("SELECT DISTINCT run FROM read_parquet($path)", {"path": path}).fetchall()
        }
    return frozenset(run.run_id for at, run in enumerate(current.indexed) if at not in served)


def to_remove(
    current: Current, attempts: Iterable[Night], *, day: str, tonight: Sequence[str], keep_nights: int
) -> list[str]:
    """Return the runs to be removed: made by nights before the last ``keep_nights``, and without a row that counts.

    A night is a day of which an attempt ended well; what attempts that did not had published goes with their day. Runs that no
    night made stay.

    Parameters
    ----------
    attempts
        Those before, of the newest day first. They are asked for only as far as they matter.
    day
        Tonight's, which is the first that is kept.
    tonight
        Tonight's runs.
    """
    free = superseded(current)
    kept, found, nights = set(tonight), set[str](), {day}
    for of, made in groupby(attempts, key=lambda night: night.date):
        if free <= kept | found:
            break
        of_day = list(made)
        runs = {run_id for night in of_day for run_id in night.run_ids}
        if of >= day or len(nights) < keep_nights:
            kept |= runs
            nights |= {of} if any(night.outcome.success for night in of_day) else set()
        else:
            found |= runs & free
    return sorted(found - kept)
