"""The catalog: one row for every record of an archive, made in one streamed scan, renewed by reading only what changed.

A catalog is a folder on any fsspec file system:

``catalog.parquet``
    one row a record, columns of contract.CATALOG_COLUMNS; pseudonyms instead of identifiers
``locations.parquet``
    record_id and root-relative location in the same order; mode 0600, because paths may hold names
``catalog.json``
    where the archive is, how the catalog was made, counts and hashes; it names the other two by their id

The data files carry the catalog's id in their footers. They are complete, under names with that id, before
``catalog.json`` is replaced, and take their plain names only afterwards; readers accept either name. So a crash at any
moment leaves either the old catalog or the new one, whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem

from screening.archive.labels import LabelRule
from screening.archive.root import join, without_credentials
from screening.archive.store import CATALOG_SCHEMA, NAMES, ROW_GROUP, is_as_written, locate, open_folder
from screening.contract import sha256_of
from screening.errors import UserError
from screening.storage import forbid_pickled_columns

SCHEMA_VERSION = 3
IDENTITY = (
    "deidentified",
    "key_id",
    "patient_key_id",
    "found_by",
    "table",
    "mapping",
    "label_rule",
    "schema_version",
)
"""Keys of catalog.json that are part of a catalog's id, beside its rows."""


class OtherVersion(UserError):
    """A catalog that another version of this program made."""


@dataclass(frozen=True)
class Catalog:
    """An opened catalog. Nothing but ``catalog.json`` is in memory."""

    path: str
    catalog_id: str  # hash of rows and settings
    root_url: str
    records: int
    key_id: str | None  # of the key behind record_id; None where record ids are plain paths
    patient_key_id: str  # of the key behind patient_key; "public" for the published constant
    deidentified: bool
    label_rule: LabelRule
    settings: dict[str, Any] = field(repr=False)  # catalog.json
    fs: AbstractFileSystem = field(repr=False)
    folder: str = field(repr=False)
    passed_over: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    chosen: np.ndarray | None = field(default=None, repr=False, compare=False)  # positions of rows; None: all

    @property
    def forgotten(self) -> tuple[frozenset[str], frozenset[str]]:
        """Record ids, and patient keys, that no scan takes up any more."""
        return forgotten_in(self.settings)

    def without(self, record_ids: Collection[str], patient_keys: Collection[str]) -> Catalog:
        """Return the same catalog with these records, and those of these patients, passed over."""
        return replace(self, passed_over=(frozenset(record_ids), frozenset(patient_keys)))

    def only(self, positions: np.ndarray) -> Catalog:
        """Return the same catalog with the rows at ``positions``, int64 (n,) ascending, and no others."""
        return replace(self, records=len(positions), chosen=positions)

    def whole(self) -> Catalog:
        """Return the same catalog with all of its rows."""
        return replace(self, records=self.settings["counts"]["records"], chosen=None)

    def iter_batches(
        self, columns: Sequence[str] | None = None, *, with_location: bool = False, batch_size: int = ROW_GROUP
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in order, at most ``batch_size`` at once, with ``location`` as the last column if asked for.

        Raises
        ------
        UserError
            A column is unknown, or the catalog's files are damaged, changed or (locations) not readable for this user.
        """
        wanted = list(CATALOG_SCHEMA.names if columns is None else columns)
        unknown = [name for name in wanted if name not in CATALOG_SCHEMA.names]
        if unknown:
            raise UserError(
                f"The catalog {self.path} has no column {unknown[0]!r}; it has {', '.join(CATALOG_SCHEMA.names)}."
            )
        if any(self.passed_over):
            whole = replace(self, passed_over=(frozenset(), frozenset()))
            read = list(dict.fromkeys([*wanted, "record_id", "patient_key"]))
            shown = [*wanted, "location"] if with_location else wanted
            for batch in whole.iter_batches(read, with_location=with_location, batch_size=batch_size):
                yield batch.filter(pc.invert(named(batch, *self.passed_over))).select(shown)
            return
        with locate(self.fs, self.folder, "catalog", self.catalog_id) as stream:
            rows = pq.ParquetFile(stream)
            if not rows.schema_arrow.equals(CATALOG_SCHEMA):
                raise UserError(
                    f"The catalog {self.path} is damaged: its columns are not those of a catalog; make it again."
                )
            if not with_location:
                for group, taken in self._groups(rows):
                    yield from _cut(rows.read_row_group(group, columns=wanted).select(wanted), batch_size, taken)
                return
            with locate(self.fs, self.folder, "locations", self.catalog_id) as location_stream:
                locations = pq.ParquetFile(location_stream)
                for group, taken in self._groups(rows):
                    table = rows.read_row_group(group, columns=list({"record_id": None, **dict.fromkeys(wanted)}))
                    where = locations.read_row_group(group)
                    if not table["record_id"].equals(where["record_id"]):
                        raise UserError(
                            f"The catalog {self.path} is damaged: its locations are of other records; make it again."
                        )
                    yield from _cut(
                        table.select(wanted).append_column("location", where["location"]), batch_size, taken
                    )

    def _groups(self, file: pq.ParquetFile) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yield the row groups that hold chosen rows, and which rows of them these are; None: all."""
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if self.chosen is None:
                yield group, None
            else:
                inside = self.chosen[slice(*np.searchsorted(self.chosen, [start, end]))]
                if len(inside):
                    yield group, inside - start
            start = end


def named(batch: pa.RecordBatch, record_ids: Collection[str], patient_keys: Collection[str]) -> pa.Array:
    """Return for each row whether its record, or its patient, is among those named."""
    records = pc.is_in(batch["record_id"], value_set=pa.array(sorted(record_ids), pa.string()))
    patients = pc.is_in(batch["patient_key"], value_set=pa.array(sorted(patient_keys), pa.string()))
    return pc.or_(records, patients)


def forgotten_in(settings: dict[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the record ids, and the patient keys, that ``catalog.json`` says no scan takes up any more."""
    noted = settings.get("forgotten", {})
    return frozenset(noted.get("record_ids", ())), frozenset(noted.get("patient_keys", ()))


def _cut(table: pa.Table, batch_size: int, taken: np.ndarray | None) -> Iterator[pa.RecordBatch]:
    table = table if taken is None else table.take(taken)
    yield from table.combine_chunks().to_batches(max_chunksize=batch_size)


def open_catalog(path: str, *, storage_options: dict[str, Any] | None = None) -> Catalog:
    """Open the catalog in the folder ``path`` (any fsspec URL).

    Raises
    ------
    UserError
        There is none, it is damaged, or it is of another version.
    """
    forbid_pickled_columns()
    fs, folder = open_folder(path, storage_options)
    catalog = opened(fs, folder, without_credentials(str(path)))
    if damaged := damaged_file(catalog):
        raise UserError(
            f"The catalog {catalog.path} is damaged: {damaged} is not as it was written; make it again with `screening "
            "catalog`."
        )
    return catalog


def damaged_file(catalog: Catalog) -> str | None:
    """Return a data file that is not as it was written: a flipped byte may leave it readable, with other rows."""
    stated = catalog.settings.get("files", {})
    for name in NAMES:
        file = f"{name}.parquet"
        if file in stated and not is_as_written(catalog.fs, catalog.folder, name, catalog.catalog_id, stated[file]):
            return file
    return None


def opened(fs: AbstractFileSystem, folder: str, shown: str) -> Catalog:
    """Return the catalog in a folder, whose data files are not looked at; UserError as `open_catalog`, which calls it."""
    try:
        settings = json.loads(fs.cat_file(join(folder, "catalog.json")))
        if settings["schema_version"] != SCHEMA_VERSION:
            raise OtherVersion(
                f"The catalog {shown} has version {settings['schema_version']}, and this program reads "
                f"{SCHEMA_VERSION}; make a new one with `screening catalog`."
            )
        seal = settings.pop("sha256", None)  # not in catalogs of earlier releases
        if seal is not None and seal != sha256_of(settings):
            raise ValueError("it is not as it was written")
        return Catalog(
            path=shown,
            catalog_id=settings["catalog_id"],
            root_url=settings["root_url"],
            records=settings["counts"]["records"],
            key_id=settings["key_id"],
            patient_key_id=settings["patient_key_id"],
            deidentified=settings["deidentified"],
            label_rule=LabelRule.model_validate(settings["label_rule"]),
            settings=settings,
            fs=fs,
            folder=folder,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"There is no catalog at {shown}; make one with: screening catalog ARCHIVE_URL --out {shown}"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"The catalog {shown} cannot be read ({type(error).__name__}: {error}); make it again with "
            "`screening catalog`."
        ) from error
