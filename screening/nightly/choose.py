"""Which records of a catalog a night is for: what no run has, what changed since, and what another version scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from screening.archive.catalog import Catalog
from screening.report.facts import catalog_path, told
from screening.run.current import Current
from screening.run.duck import MEMORY_MB, database, literal, path_namer
from screening.run.winners import INDEX, VERSION

NEW, CHANGED, OLDER = range(3)


@dataclass(frozen=True)
class Chosen:
    """Records that are to be screened, in the order in which they are: what is new or changed first, newest first."""

    positions: np.ndarray  # int64 (n,), of rows of the catalog
    kinds: np.ndarray  # uint8 (n,), NEW, CHANGED or OLDER

    def __len__(self) -> int:
        return len(self.positions)

    def count(self, kind: int) -> int:
        """Return how many are of a kind."""
        return int((self.kinds == kind).sum())

    def first(self, records: int | None) -> Chosen:
        """Return the first so many; None: all."""
        return Chosen(self.positions[:records], self.kinds[:records])

    def after(self, records: int) -> Chosen:
        """Return what is left behind the first so many."""
        return Chosen(self.positions[records:], self.kinds[records:])

    def in_order(self) -> np.ndarray:
        """Return their positions in the order of the catalog, int64 (n,)."""
        return np.sort(self.positions)


def to_screen(
    catalog: Catalog, current: Current | None, *, bundle_sha256: str, older: bool, memory_mb: int = MEMORY_MB
) -> Chosen:
    """Return the records of a catalog that the model with this bundle is still to score.

    Those are: records of which `current` has no row (new) or one of another version of the file (changed) and, with ``older``,
    those whose row another model made. A record that was rejected has its row, and is not tried again until its file changes.
    The newest come first: by the date of the recording where there is one, then from the end of the catalog.

    Parameters
    ----------
    current
        The index of what is published; None where nothing is.
    older
        Whether rows of other models are to be made anew, after all others.

    Raises
    ------
    UserError
        Catalog or index cannot be read.
    """
    with database(memory_mb=memory_mb) as db:
        db.execute("CREATE TABLE scored (h UBIGINT, v UBIGINT, other BOOLEAN)")
        gone: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        if current is not None:
            gone = (current.forgotten_records, current.forgotten_patients)
            others = [at for at, run in enumerate(current.indexed) if run.model["bundle_sha256"] != bundle_sha256]
            spelt = path_namer(db, current.folder)
            with told(current):
                db.execute(
                    """INSERT INTO scored SELECT hash(record_id), version, list_contains($others::INTEGER[], run)
                       FROM read_parquet($index)""",
                    {"index": literal(spelt(current.files[INDEX]["path"])), "others": others},
                )
        db.register("forgotten_record", pa.table({"id": pa.array(gone[0], pa.string())}))
        db.register("forgotten_patient", pa.table({"id": pa.array(gone[1], pa.string())}))
        left_out = "record_id IN (FROM forgotten_record) OR coalesce(patient_key IN (FROM forgotten_patient), false)"
        found = db.execute(
            f"""SELECT position, kind FROM (
                    SELECT c.position, c.t, CASE WHEN s.h IS NULL THEN {NEW} WHEN s.v <> c.v THEN {CHANGED}
                                           WHEN s.other AND $older THEN {OLDER} END AS kind
                    FROM (SELECT file_row_number AS position, acquired_at AS t, hash(record_id) AS h, {VERSION} AS v
                          FROM read_parquet($catalog, file_row_number = true)
                          WHERE {f"NOT ({left_out})" if any(gone) else "true"}) c
                    LEFT JOIN scored s ON s.h = c.h)
                WHERE kind IS NOT NULL
                ORDER BY kind = {OLDER}, t DESC NULLS LAST, position DESC""",
            {"catalog": literal(catalog_path(db, catalog)), "older": older},
        ).fetchnumpy()
        catalog_path(db, catalog)  # still the same
    return Chosen(np.asarray(found["position"], np.int64), np.asarray(found["kind"], np.uint8))
