"""Which runs may go: those of earlier nights of which no row counts any more."""

from __future__ import annotations

from collections.abc import Sequence

from screening.nightly.book import Entry
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


def to_remove(current: Current, entries: Sequence[Entry], tonight: Sequence[str], *, keep_nights: int) -> list[str]:
    """Return the runs to be removed: made by nights before the last ``keep_nights``, and without a row that counts.

    Parameters
    ----------
    entries
        The attempts before tonight's, oldest first; of these, those that ended well are nights.
    tonight
        Tonight's runs. Those that no night made stay.
    """
    good = [entry.night.run_ids for entry in entries if entry.night is not None and entry.night.outcome.success]
    nights = [*good, tuple(tonight)]
    kept = {run for runs in nights[-keep_nights:] for run in runs}
    earlier = {run for runs in nights[:-keep_nights] for run in runs} - kept
    return sorted(earlier & superseded(current))
