"""Taking patients and records out of a catalog, for good: the next scan leaves them out too, though the archive has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from screening.archive.catalog import IDENTITY, Catalog, named
from screening.archive.labels import CLASSES
from screening.archive.store import CATALOG_SCHEMA, LOCATION_SCHEMA, CatalogFiles
from screening.archive.version import ABSENT


def held_by_catalog(
    catalog: Catalog, *, record_ids: Collection[str] = (), patient_keys: Collection[str] = ()
) -> list[tuple[str, str | None]]:
    """Return (record id, patient key) of every record of a catalog that is named, or is of a patient who is."""
    found: list[tuple[str, str | None]] = []
    for batch in catalog.iter_batches(["record_id", "patient_key"]):
        chosen = batch.filter(named(batch, record_ids, patient_keys))
        found += zip(chosen["record_id"].to_pylist(), chosen["patient_key"].to_pylist(), strict=True)
    return found


def forget_in_catalog(catalog: Catalog, *, record_ids: Collection[str] = (), patient_keys: Collection[str] = ()) -> str:
    """Write a catalog without these records and patients, who are noted as pseudonyms so that scans leave them out.

    Returns
    -------
    str
        The catalog's new id.
    """
    counts: Counter[str] = Counter(duplicates=catalog.settings["counts"]["duplicates"])
    labels: Counter[str] = Counter()
    with CatalogFiles(catalog.fs, catalog.folder) as files:
        files.write(_empty(CATALOG_SCHEMA), _empty(LOCATION_SCHEMA))
        for batch in _kept(catalog, record_ids, patient_keys):
            table = pa.Table.from_batches([batch])
            counts.update(
                records=batch.num_rows,
                absent=pc.sum(pc.equal(table["version"], ABSENT), min_count=0).as_py(),
                bytes=pc.sum(table["bytes"], min_count=0).as_py(),
                without_metadata=_without_metadata(table),
            )
            labels.update(label or "none" for label in table["label"].to_pylist())
            files.write(batch.select(CATALOG_SCHEMA.names), batch.select(LOCATION_SCHEMA.names))
        forgotten = {
            "record_ids": sorted({*catalog.forgotten[0], *record_ids}),
            "patient_keys": sorted({*catalog.forgotten[1], *patient_keys}),
        }
        identity = {key: catalog.settings[key] for key in IDENTITY}
        return files.commit(
            identity,
            lambda catalog_id, hashes: {
                **catalog.settings,
                "catalog_id": catalog_id,
                "counts": {name: counts[name] for name in catalog.settings["counts"]},
                "labels": {name: labels[name] for name in (*CLASSES, "none")},
                "files": hashes,
                "forgotten": forgotten,
            },
        )


def _kept(catalog: Catalog, record_ids: Collection[str], patient_keys: Collection[str]) -> Iterator[pa.RecordBatch]:
    for batch in catalog.iter_batches(with_location=True):
        yield batch.filter(pc.invert(named(batch, record_ids, patient_keys)))


def _without_metadata(table: pa.Table) -> int:
    no_statement = pc.equal(pc.list_value_length(table["labels"]), 0)
    return int(
        pc.sum(
            pc.and_(
                pc.and_(table["age"].is_null(), table["sex"].is_null()),
                pc.or_kleene(no_statement, table["labels"].is_null()),
            ),
            min_count=0,
        ).as_py()
    )


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)
