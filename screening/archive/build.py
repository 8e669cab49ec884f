"""Making a catalog, or renewing one: one streamed scan, which reads only what changed since the last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem

from screening.archive.catalog import SCHEMA_VERSION, Catalog, OtherVersion, damaged_file, forgotten_in, opened
from screening.archive.discovery import RecordSource, discover
from screening.archive.identity import PUBLIC_KEY, PseudonymKey
from screening.archive.labels import CLASSES, PRESETS, Labeller, LabelRule
from screening.archive.listing import WORKERS, Listing
from screening.archive.mapping import ColumnMapping
from screening.archive.reader import ArchiveReader
from screening.archive.root import join, open_root, without_credentials
from screening.archive.scan import KEPT_COLUMNS, Scan
from screening.archive.seen import PreviousRows
from screening.archive.stated import StatedFacts
from screening.archive.store import ROW_GROUP, CatalogFiles, locate, open_folder
from screening.contract import NOTICE, sha256_of
from screening.errors import UserError


@dataclass(frozen=True, slots=True)
class CatalogSummary:
    """What a scan found; new + changed + unchanged = records."""

    path: str
    catalog_id: str
    found_by: str  # "table", "RECORDS" or "listing"
    label_rule: str
    records: int
    new: int
    changed: int
    unchanged: int
    gone: int
    absent: int  # listed, but without a file in the archive; the run rejects them as missing_file
    duplicates: int  # listed again, and left out
    headers_read: int
    without_metadata: int  # neither age nor sex nor a counting statement is known
    bytes: int
    labels: dict[str, int]  # records by class; "none" where the archive states nothing or no rule was given
    warnings: tuple[str, ...]


def build_catalog(
    archive_url: str,
    out: str,
    *,
    metadata: str | None = None,
    mapping: ColumnMapping | None = None,
    labels: LabelRule | None = None,
    deidentified: bool = False,
    key: PseudonymKey | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> CatalogSummary:
    """Scan an archive and write, or renew, its catalog.

    Records are found by a metadata table (one row a record; files that no row names are not part of the population),
    else by RECORDS files, else by listing headers. Without a table, age, sex and statements come from the headers'
    comments, and a later scan with the same settings reads only the headers of new and changed records. A record's
    version covers the files in its header's folder that share the header's stem, and what else the header names where
    there is none of these, or files that belong to no header.

    Parameters
    ----------
    archive_url
        Folder that holds the records: a path or any fsspec URL.
    out
        Folder of the catalog: a path or any fsspec URL.
    metadata
        Table of records: a path within the archive, or any path or URL. None looks for a known table in the root.
    mapping
        Which column holds what; None where the table is PTB-XL's or MIMIC-IV-ECG's.
    labels
        The label rule; None leaves ``label`` empty and keeps every statement.
    deidentified
        The archive is public: ``record_id`` is the plain path without suffix.
    key
        Makes the pseudonyms. May be left out for a de-identified archive; a published constant then stands in.
    storage_options
        For the archive's file system; never written. Also for ``out`` where that is of the same kind.
    progress
        Called with the number of records so far.

    Raises
    ------
    UserError
        The archive, the table, the rule or ``out`` cannot be used. The catalog at ``out`` is as it was then.
    """
    if key is None and not deidentified:
        raise UserError(
            "Identifiers need a pseudonym key; give one with --key-file, or say --deidentified for a public archive."
        )
    rule, key_id = labels or PRESETS["none"], (key or PUBLIC_KEY).key_id
    fs, root = open_root(archive_url, storage_options)
    root_url = _root_url(fs, root, archive_url)
    shown_root, shown_out = without_credentials(archive_url), without_credentials(str(out))
    same_kind = "://" in str(out) and str(out).split("://")[0] == archive_url.split("://")[0]
    out_fs, folder = open_folder(out, storage_options if same_kind else None)
    earlier = _earlier(out_fs, folder, shown_out, root_url, deidentified, key_id)
    previous = _previous_rows(earlier) if earlier else None
    forgotten = _noted(out_fs, folder)
    unreadable: Counter[str] = Counter()
    with (
        CatalogFiles(out_fs, folder) as files,
        StatedFacts() as stated,
        ThreadPoolExecutor(WORKERS, thread_name_prefix="catalog") as pool,
    ):
        listing = Listing(fs, root, pool)
        source = discover(fs, root, listing, metadata, mapping, unreadable, storage_options=storage_options)
        settings = {
            "deidentified": deidentified,
            "key_id": None if deidentified else key_id,
            "patient_key_id": key_id,
            "found_by": source.found_by,
            "table": source.table,
            "mapping": source.mapping.model_dump(mode="json") if source.mapping else None,
            "label_rule": rule.model_dump(mode="json"),
            "schema_version": SCHEMA_VERSION,
        }
        scan = Scan(
            ArchiveReader(archive_url, storage_options),
            pool,
            listing,
            stated,
            Labeller(rule, source.superclasses),
            key or PUBLIC_KEY,
            deidentified=deidentified,
            previous=previous,
            reuse=earlier is not None
            and previous is not None
            and earlier.settings.get("settings_sha256") == sha256_of(settings),
            unreadable=unreadable,
            forgotten=forgotten,
        )
        try:
            for rows, locations in scan.batches(source):
                files.write(rows, locations)
                if progress:
                    progress(scan.count["records"])
        except OSError as error:
            why = f"{type(error).__name__}: {error.strerror}" if error.strerror else type(error).__name__  # no path
            raise UserError(
                f"The archive {shown_root!r} could not be read to its end ({why}); mend that and scan again."
            ) from error
        if not scan.count["records"]:
            raise UserError(
                f"There are no records in {shown_root!r} ({source.nothing}); check the URL, or name their table with "
                "--metadata."
            )
        gone = int((~previous.seen).sum()) if previous else 0
        by_class = {name: scan.labels[name] for name in (*CLASSES, "none")}
        catalog_id = files.commit(
            settings,
            lambda catalog_id, hashes: {
                "notice": NOTICE,
                "catalog_id": catalog_id,
                "root_url": root_url,
                **settings,
                "settings_sha256": sha256_of(settings),
                "counts": {
                    name: scan.count[name] for name in ("records", "absent", "duplicates", "without_metadata", "bytes")
                },
                "labels": by_class,
                "files": hashes,
                "forgotten": {"record_ids": sorted(forgotten[0]), "patient_keys": sorted(forgotten[1])},
            },
        )
    counted = (
        "records",
        "new",
        "changed",
        "unchanged",
        "absent",
        "duplicates",
        "headers_read",
        "without_metadata",
        "bytes",
    )
    return CatalogSummary(
        path=shown_out,
        catalog_id=catalog_id,
        found_by=source.found_by,
        label_rule=rule.name,
        gone=gone,
        labels=by_class,
        warnings=(
            *(["The earlier catalog was damaged, and was made anew."] if earlier and previous is None else []),
            *_warnings(scan, source, listing, rule, unreadable),
        ),
        **{name: scan.count[name] for name in counted},
    )


def _noted(fs: AbstractFileSystem, folder: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return what was forgotten, also from a catalog of another version."""
    try:
        return forgotten_in(json.loads(fs.cat_file(join(folder, "catalog.json"))))
    except (OSError, ValueError, AttributeError):
        return frozenset(), frozenset()


def _root_url(fs: AbstractFileSystem, root: str, archive_url: str) -> str:
    if "::" in archive_url:  # chained, e.g. zip::s3://...: only the URL as given leads there again
        return without_credentials(archive_url)
    return without_credentials(fs.unstrip_protocol(root))


def _earlier(
    fs: AbstractFileSystem, folder: str, shown: str, root_url: str, deidentified: bool, key_id: str
) -> Catalog | None:
    """Return the catalog that stands at ``out``; UserError where renewing it would break its record ids."""
    try:
        if not fs.exists(join(folder, "catalog.json")):
            if fs.exists(folder) and not fs.isdir(folder):
                raise UserError(f"{shown!r} is a file; name a folder for the catalog with --out.")
            return None
    except OSError as error:
        raise UserError(
            f"{shown!r} cannot be reached ({error}); name another folder for the catalog with --out."
        ) from error
    try:
        catalog = opened(fs, folder, shown)
    except OtherVersion:
        return None  # made anew
    except UserError as error:
        raise UserError(
            f"{shown!r} holds a damaged catalog.json; remove that folder, or choose another --out."
        ) from error
    if catalog.root_url != root_url:
        raise UserError(f"{shown!r} holds the catalog of another archive ({catalog.root_url}); choose another --out.")
    if (catalog.deidentified, catalog.patient_key_id) != (deidentified, key_id):
        raise UserError(
            f"{shown!r} holds a catalog with {_identity(catalog.deidentified, catalog.patient_key_id)}, and this scan "
            f"has {_identity(deidentified, key_id)}; use the same, or another --out."
        )
    return catalog


def _identity(deidentified: bool, key_id: str) -> str:
    return f"{'plain' if deidentified else 'keyed'} record ids and key {key_id}"


def _previous_rows(catalog: Catalog) -> PreviousRows | None:
    """Return what the earlier scan found; None, so that all is read anew, where its files are damaged."""
    if damaged_file(catalog):
        return None
    held: dict[int, list[dict[str, Any]]] = {}

    def row(position: int) -> dict[str, Any]:
        """Rows are asked for almost in order, so one row group is held."""
        group, offset = divmod(position, ROW_GROUP)
        if group not in held:
            held.clear()
            with locate(catalog.fs, catalog.folder, "catalog", catalog.catalog_id) as stream:
                held[group] = (
                    pq.ParquetFile(stream).read_row_group(group, columns=["format", *KEPT_COLUMNS]).to_pylist()
                )
        return held[group][offset]

    try:
        return PreviousRows(catalog.iter_batches(["record_id", "version"]), row)
    except (UserError, OSError, pa.ArrowException):
        return None


def _warnings(
    scan: Scan, source: RecordSource, listing: Listing, rule: LabelRule, unreadable: Counter[str]
) -> Iterator[str]:
    """Yield what the user should know, one sentence each, without any identifier."""
    count = scan.count
    if count["absent"]:
        where = source.table or source.found_by
        yield f"{count['absent']:,} records of {where} have no file in the archive; a run rejects them as missing_file."
    if count["duplicates"]:
        yield f"{count['duplicates']:,} records are listed more than once; the first row of each was kept."
    if count["without_path"]:
        yield f"{count['without_path']:,} rows of {source.table} name no record and were left out."
    if count["without_sidecar"]:
        tables = "1 table" if count["without_sidecar"] == 1 else f"{count['without_sidecar']:,} tables"
        yield (
            f"{tables} of numbers (CSV, NPY, HDF5) without an ecg.yaml, which says unit and rate, were left out; "
            "docs/formats.md has one to copy."
        )
    if count["headers_unreadable"]:
        yield f"{count['headers_unreadable']:,} headers could not be read; a run says why."
    if count["free_texts"]:
        yield (
            f"{count['free_texts']:,} statements are free text, which may name people, and were left out; they counted for the "
            "labels."
        )
    for what, number in sorted(unreadable.items()):
        yield f"{number:,} values of {what} could not be understood and are null."
    if rule.decides and not (scan.labels["MI"] or scan.labels["NORM"]):
        yield f"The label rule {rule.name!r} found neither MI nor NORM; does it suit the codes of this archive?"
    if listing.unnameable:
        yield f"{listing.unnameable:,} files were left out because their names are not UTF-8; rename them."
    if count["other_files"]:
        yield f"{count['other_files']:,} files of no known format were left out; docs/formats.md lists what is read."
    if listing.containers:
        yield (
            f"{listing.containers:,} zip or tar files were not looked into; unpack them, or scan each by zip::URL or tar::URL."
        )
    if listing.left_out:
        yield (
            f"{listing.left_out:,} members of the zip or tar file were left out: they are links or devices, lie where a folder "
            "is, or their names have no end; unpack it to see them."
        )
    if listing.passed_over:
        yield (
            f"{listing.passed_over:,} folders were passed over: they are links that lead out of the archive, or their "
            "paths are too long."
        )
