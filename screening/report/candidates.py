"""Whom a local validation can draw: the index ECG of every patient, by the report's own rules, as one model scored it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from screening.archive.catalog import Catalog
from screening.errors import UserError
from screening.report.facts import Frame, IndexRule, joined, told
from screening.run.current import Current, refresh
from screening.run.duck import MEMORY_MB
from screening.storage import Folder

MOST_SITES, SMALLEST_SITE = 20, 20


@dataclass(frozen=True)
class Candidates:
    """Index ECGs that one bundle scored."""

    current: Current
    bundle_sha256: str
    ecgs: pa.Table  # record_id, log_odds, flagged, site; sorted by record_id
    others: int  # patients whose index ECG another bundle scored


def candidates(
    runs: Folder, catalog: Catalog, *, index_rule: IndexRule, today: date, memory_mb: int = MEMORY_MB
) -> Candidates:
    """Return the index ECGs of the bundle that scored most of them.

    Raises
    ------
    UserError
        No run is published, or no scored record is in the catalog as it is now.
    """
    current = refresh(runs, memory_mb=memory_mb)
    frame = Frame(index_rule, None, None, today, (0,), MOST_SITES, SMALLEST_SITE)
    with joined(current, catalog, frame, memory_mb=memory_mb) as of, told(current):
        db = of.db
        counts = db.execute("SELECT model, count(*) FROM picked WHERE once GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
        if not counts:
            raise UserError(
                f"no scored record of {runs.url} is in the catalog {catalog.path} as it is now; name the catalog that the "
                "runs were made from, or run `screening run` again"
            )
        ecgs = db.sql(
            """SELECT r.record_id, p.log_odds::DOUBLE AS log_odds, p.flagged, list_extract($sites, p.site + 1) AS site
            FROM (SELECT pos, record_id FROM results) r JOIN picked p ON p.pos = r.pos
            WHERE p.once AND p.model = $model ORDER BY r.record_id""",
            params={"sites": list(of.places["site"]), "model": counts[0][0]},
        ).to_arrow_table()
    return Candidates(current, of.bundles[counts[0][0]], ecgs, sum(n for _, n in counts[1:]))
