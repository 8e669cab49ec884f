"""One pass over an archive: from the paths of its records to the rows of its catalog, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from screening.archive import formats
from screening.archive.conduction import COLUMNS as CONDUCTION
from screening.archive.conduction import conduction
from screening.archive.container import Refused
from screening.archive.discovery import RecordSource
from screening.archive.facts import Facts
from screening.archive.formats.missing import Missing
from screening.archive.formats.sidecar import sidecar_locations
from screening.archive.headers import header_facts
from screening.archive.identity import PseudonymKey
from screening.archive.labels import Labeller
from screening.archive.listing import WORKERS, Listing
from screening.archive.location import (
    HEADER_SUFFIX,
    SIDECAR_FORMATS,
    format_by_name,
    location_of,
    member_of,
    plain_id,
    safe_location,
    stem_of,
)
from screening.archive.reader import ArchiveReader
from screening.archive.seen import PreviousRows, SeenIds
from screening.archive.stated import StatedFacts
from screening.archive.store import CATALOG_SCHEMA, LOCATION_SCHEMA
from screening.archive.version import ABSENT, SIDECAR_MARK, FileFacts, others_of, version_of
from screening.contract import MAX_HEADER_BYTES
from screening.errors import UserError

T = TypeVar("T")
UNTOLD = "unknown"
"""Format of a file whose name says nothing, until its bytes have told."""
BATCH = 4_096
"""Records listed, and headers read, together."""
_MAX_USELESS = 20
"""Rows a record that say nothing new, above which a table is no table of records."""
KEPT_COLUMNS = (
    *("patient_key", "acquired_at", "age", "sex", "site", "device", "rate_hz", "duration_s"),
    *CONDUCTION,
    *("labels", "label", "fold"),
)


def _of(values: list[T], places: list[int]) -> list[T]:
    return [values[i] for i in places]


def _states(kind: str) -> bool:
    """Whether files of a format say more of their record than a table beside them may."""
    return kind != "wfdb" and kind not in SIDECAR_FORMATS


def _one_of(entries: list[FileFacts] | None, path: str) -> tuple[int, str]:
    """Return size and token of the file at ``path`` among those of its stem; without a token where it is absent."""
    suffix = path[len(stem_of(path)) :]
    return next(((size, token) for found, size, token in entries or () if found == suffix), (0, ""))


def _most(suffix: str) -> int:
    return MAX_HEADER_BYTES if suffix == HEADER_SUFFIX else formats.MAX_STATED_BYTES


class Scan:
    """One pass over an archive; ``count`` holds what it has found so far."""

    def __init__(
        self,
        reader: ArchiveReader,
        pool: ThreadPoolExecutor,
        listing: Listing,
        stated: StatedFacts,
        labeller: Labeller,
        key: PseudonymKey,
        *,
        deidentified: bool,
        previous: PreviousRows | None,
        reuse: bool,
        unreadable: Counter[str],
        forgotten: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
    ) -> None:
        self._reader, self._pool, self._listing, self._stated_facts = reader, pool, listing, stated
        self._labeller, self._key, self._deidentified = labeller, key, deidentified
        self._previous, self._reuse, self._unreadable = previous, reuse, unreadable
        self._forgotten_records, self._forgotten_patients = forgotten
        self._statement_texts = {*labeller.rule.positive_codes, *labeller.rule.negative_codes}
        self._seen = SeenIds()
        self.count: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()

    def batches(self, source: RecordSource) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        """Yield (rows of the catalog, rows of the locations)."""
        records = self._each(source.records)
        while batch := list(islice(records, BATCH)):
            named = [(path, facts) for path, facts in batch if path is not None]
            self.count["without_path"] += len(batch) - len(named)
            if named and (found := self._batch(source, named)):
                yield found
            # A few kilobytes of compressed table may name one record for hours.
            if (useless := self.count["duplicates"] + self.count["without_path"]) > _MAX_USELESS * (
                BATCH + self.count["records"]
            ):
                raise UserError(
                    f"{useless:,} rows of {source.table or source.found_by} name no record, or one named before, and only "
                    f"{self.count['records']:,} name another; mend it."
                )

    def _each(self, records: Iterable[tuple[str | None, Facts | None]]) -> Iterator[tuple[str | None, Facts | None]]:
        """Yield records, and in place of an HDF5 file that holds many each of them."""
        for path, facts in records:
            if path is None or format_by_name(path) != "hdf5" or member_of(path) is not None:
                yield path, facts
                continue
            members: Sequence[str] = []
            with suppress(Refused, Missing, MemoryError):  # the run will say it of the file
                members = self._reader.members(path)
            for member in members:
                yield f"{path}#{member}", facts
            if not members:
                yield path, facts

    def _batch(
        self, source: RecordSource, named: list[tuple[str, Facts | None]]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch] | None:
        clean = [safe_location(path) for path, _ in named]
        opened = self._opened([safe or path for safe, (path, _) in zip(clean, named, strict=True)], source)
        ids = [self._record_id(location) for location, _ in opened]
        fresh = self._seen.first_time(ids)
        self.count["duplicates"] += len(ids) - int(fresh.sum())
        keep = [i for i in np.flatnonzero(fresh).tolist() if ids[i] not in self._forgotten_records]
        if not keep:
            return None
        ids, locations = [ids[i] for i in keep], [opened[i][0] for i in keep]
        facts = [named[i][1] for i in keep]
        files = self._files(
            [location if clean[i] is not None else None for i, location in zip(keep, locations, strict=True)]
        )
        kinds = [opened[i][1] for i in keep]
        beside, elsewhere = self._sidecars(locations, kinds), self._elsewhere(locations, files)
        sizes, versions = [], []
        for i, (found, sidecar) in enumerate(zip(files, beside, strict=True)):
            others = elsewhere.get(i, [])
            size, version = version_of([*found, *sidecar, *others]) if found is not None else (0, ABSENT)
            sizes.append(size)
            versions.append(version)
        before = self._compare(
            ids, versions, [fact is None or _states(kind) for fact, kind in zip(facts, kinds, strict=True)]
        )
        for i, row in before.items():
            kinds[i] = row["format"]
        looks, stated = self._read_files(locations, files, facts, before, kinds)
        rows = [
            before[i] if fact is None and i in before else self._row_of(fact, stated.get(i), before.get(i))
            for i, fact in enumerate(facts)
        ]
        if source.found_by == "listing":
            # A file that nothing names is a record only where its bytes, or a sidecar, say so.
            stay = [
                i
                for i in range(len(ids))
                if self._is_record(locations[i], kinds[i], beside[i], i in before, looks.get(i))
            ]
            self.count["new"] -= len(ids) - len(stay)
            keep, ids, locations, kinds = _of(keep, stay), _of(ids, stay), _of(locations, stay), _of(kinds, stay)
            files, sizes, versions, rows = _of(files, stay), _of(sizes, stay), _of(versions, stay), _of(rows, stay)
            if not ids:
                return None
        if self._forgotten_patients:
            stay = [i for i, row in enumerate(rows) if row["patient_key"] not in self._forgotten_patients]
            ids, locations, kinds = _of(ids, stay), _of(locations, stay), _of(kinds, stay)
            files, sizes, versions, rows = _of(files, stay), _of(sizes, stay), _of(versions, stay), _of(rows, stay)

        self.count["records"] += len(ids)
        self.count["absent"] += sum(found is None for found in files)
        self.count["bytes"] += sum(sizes)
        self.count["without_metadata"] += sum(
            row["age"] is None and row["sex"] is None and not row["labels"] for row in rows
        )
        self.labels.update(row["label"] or "none" for row in rows)
        columns: dict[str, list[Any]] = {
            "record_id": ids,
            "format": kinds,
            "bytes": sizes,
            "version": versions,
            **{name: [row[name] for row in rows] for name in KEPT_COLUMNS},
        }
        return (
            pa.RecordBatch.from_pydict(columns, schema=CATALOG_SCHEMA),
            pa.RecordBatch.from_pydict({"record_id": ids, "location": locations}, schema=LOCATION_SCHEMA),
        )

    def _opened(self, paths: list[str], source: RecordSource) -> list[tuple[str, str]]:
        """Return (location of the file that opens the record, its format as far as the name tells) for each path."""
        opened = [location_of(path) for path in paths]
        # "a/1" is the record of a/1.hea, as WFDB names it, or else a file of this name, as DICOM exports write them.
        short = [i for i, path in enumerate(paths) if opened[i][0] != path and safe_location(path)]
        if source.found_by != "listing":
            wfdb = self._listing.find([opened[i][0] for i in short])
            short = [i for i, found in zip(short, wfdb, strict=True) if found is None]
        for i, found in zip(short, self._listing.find([paths[i] for i in short]), strict=True):
            if found is not None:
                opened[i] = (paths[i], UNTOLD)
        return opened

    def _record_id(self, location: str) -> str:
        return plain_id(location) if self._deidentified else self._key.pseudonym("record", location)

    def _files(self, locations: list[str | None]) -> list[list[FileFacts] | None]:
        found = iter(self._listing.find([location for location in locations if location is not None]))
        return [None if location is None else next(found) for location in locations]

    def _compare(self, ids: list[str], versions: list[str], from_file: list[bool]) -> dict[int, dict[str, Any]]:
        """Count new, changed and unchanged records; return the rows of those whose files need not be read again."""
        if self._previous is None:
            self.count["new"] += len(ids)
            return {}
        positions = self._previous.positions(ids)
        same = self._previous.same_version(positions, versions)
        new = int((positions < 0).sum())
        self.count["new"] += new
        self.count["unchanged"] += int(same.sum())
        self.count["changed"] += len(ids) - new - int(same.sum())
        if not self._reuse:
            return {}
        return {int(i): self._previous.row(int(positions[i])) for i in np.flatnonzero(same) if from_file[i]}

    def _sidecars(self, locations: list[str], kinds: list[str]) -> list[list[FileFacts]]:
        """Return for each record the sidecar that holds for it, as one more file: a change of it changes the record."""
        found: list[list[FileFacts]] = [[] for _ in locations]
        for i, (location, kind) in enumerate(zip(locations, kinds, strict=True)):
            if kind in SIDECAR_FORMATS:
                candidates = sidecar_locations(location)
                for entries in self._listing.find(candidates):
                    if entries:
                        found[i] = [(SIDECAR_MARK, *entries[0][1:])]
                        break
        return found

    def _elsewhere(self, locations: list[str], files: list[list[FileFacts] | None]) -> dict[int, list[FileFacts]]:
        """Return, by place, the files of records that do not share their header's stem; only doubtful headers are read."""
        there = [i for i, found in enumerate(files) if found is not None]
        doubtful = self._listing.names_others([locations[i] for i in there])
        asked = [i for i, is_doubtful in zip(there, doubtful, strict=True) if is_doubtful]
        named = list(self._pool.map(lambda i: self._reader.elsewhere(locations[i]), asked))
        entries = iter(self._listing.find([path for paths in named for path in paths]))
        found: dict[int, list[FileFacts]] = {}
        for i, paths in zip(asked, named, strict=True):
            facts = [_one_of(next(entries), path) for path in paths]
            if facts:
                found[i] = [others_of(facts)]
        return found

    def _is_record(self, location: str, kind: str, sidecar: list[FileFacts], kept: bool, looks: str | None) -> bool:
        if kind in SIDECAR_FORMATS and not sidecar:
            self.count["without_sidecar"] += 1
            return False
        if kind == UNTOLD and not kept and looks is None:
            self.count["other_files"] += 1
            return False
        return True

    def _read_files(
        self,
        locations: list[str],
        files: list[list[FileFacts] | None],
        facts: list[Facts | None],
        before: dict[int, dict[str, Any]],
        kinds: list[str],
    ) -> tuple[dict[int, str], dict[int, Facts]]:
        """Return what files are, as far as their bytes tell, and what they state, many read at once; fill in ``kinds``.

        Of WFDB with a table nothing is read: the table says more than its headers.
        """
        wanted = [
            i
            for i, found in enumerate(files)
            if (facts[i] is None or _states(kinds[i]))
            and i not in before
            and kinds[i] not in SIDECAR_FORMATS
            and any(size <= _most(suffix) for suffix, size, _ in found or () if locations[i].endswith(suffix))
        ]
        # Several at once: handing one small file to a thread costs as much as reading it.
        together = max(1, len(wanted) // (4 * WORKERS))
        named = [(locations[i], kinds[i]) for i in wanted]
        chunks = [named[at : at + together] for at in range(0, len(wanted), together)]
        read = chain.from_iterable(self._pool.map(lambda chunk: [self._stated(*one) for one in chunk], chunks))
        looks: dict[int, str] = {}
        facts_of: dict[int, Facts] = {}
        for i, (kind, stated, unreadable) in zip(wanted, read, strict=True):
            self._unreadable.update(unreadable)
            if kind is not None:
                looks[i] = kinds[i] = kind
            if stated is None:
                self.count["headers_unreadable"] += int(kind is not None or locations[i].endswith(HEADER_SUFFIX))
                continue
            self.count["headers_read"] += 1
            facts_of[i] = stated
        return looks, facts_of

    def _stated(self, location: str, kind: str) -> tuple[str | None, Facts | None, Counter[str]]:
        """Return what format a file is of, None where it is not known, what it states, and what of that is no value."""
        unreadable: Counter[str] = Counter()
        try:
            if kind == UNTOLD and formats.format_of(self._reader.beginning(location, formats.HEAD)) is None:
                return None, None, unreadable  # most such files are none of ours, and may be large
            data = self._reader.beginning(location, _most(location[location.rfind(".") :]))
        except (Refused, PermissionError):  # of this one record; the run will say so
            return None, None, unreadable
        if location.endswith(HEADER_SUFFIX):
            stated = header_facts(data, unreadable, statement_texts=self._statement_texts)
            return "wfdb", stated.bounded(unreadable), unreadable
        known = formats.format_of(data)
        if known is None:
            return None, None, unreadable
        return known.NAME, self._stated_facts.of(data, unreadable), unreadable

    def _row_of(self, told: Facts | None, stated: Facts | None, before: dict[str, Any] | None) -> dict[str, Any]:
        """Return the row of a record: what its table tells, and where that is silent, what its file states or stated before."""
        row = self._row(told or stated or Facts())
        if told is None or (stated is None and before is None):
            return row
        beside = dict(before or self._row(stated or Facts()))
        if told.statements is not None:
            beside |= {name: row[name] for name in ("labels", "label")}
        return {name: beside[name] if value is None else value for name, value in row.items()}

    def _row(self, facts: Facts) -> dict[str, Any]:
        labels, label = self._labeller(facts.statements)
        if labels and not self._deidentified:
            kept = [one for one in labels if self._labeller.may_be_kept(one, in_words=facts.in_words)]
            self.count["free_texts"] += len(labels) - len(kept)
            labels = kept
        patient = facts.patient_id
        return {
            "patient_key": None if patient is None else self._key.pseudonym("patient", patient),
            "acquired_at": facts.acquired_at,
            "age": facts.age,
            "sex": facts.sex,
            "site": facts.site,
            "device": facts.device,
            "rate_hz": facts.rate_hz,
            "duration_s": facts.duration_s,
            **conduction(facts),
            "labels": labels,
            "label": label,
            "fold": facts.fold,
        }
