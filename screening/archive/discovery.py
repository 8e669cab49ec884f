"""Which records an archive holds: by metadata table, by RECORDS files, or by listing."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from screening.archive.facts import Facts
from screening.archive.listing import Listing
from screening.archive.mapping import KNOWN_TABLES, ColumnMapping, known_mapping
from screening.archive.metadata import STATEMENTS_TABLE, MetadataTable, read_superclasses, some
from screening.archive.root import join, open_within, without_credentials
from screening.errors import UserError
from screening.storage import open_filesystem


@dataclass(frozen=True)
class RecordSource:
    """Where the records of an archive come from."""

    found_by: str  # "table", "RECORDS" or "listing"
    records: Iterator[tuple[str | None, Facts | None]]  # path as stated; facts are None where headers have to tell
    nothing: str  # how to say that there was no record
    table: str | None = None  # the table's name, without its folder
    mapping: ColumnMapping | None = None
    superclasses: dict[str, str] | None = None


def discover(
    fs: AbstractFileSystem,
    root: str,
    listing: Listing,
    metadata: str | None,
    mapping: ColumnMapping | None,
    unreadable: Counter[str],
    *,
    storage_options: dict[str, Any] | None = None,
) -> RecordSource:
    """Return the source of an archive's records: the table named or known, else RECORDS files, else a listing.

    Raises
    ------
    UserError
        The table is absent, cannot be read, or needs a mapping.
    """
    if metadata is None:
        metadata = next((name for name in KNOWN_TABLES if fs.exists(join(root, name))), None)
    if metadata is not None:
        return _by_table(fs, root, metadata, mapping, unreadable, storage_options)
    if mapping is not None:
        raise UserError("A column mapping was given but no table; name it with --metadata.")
    if fs.exists(join(root, "RECORDS")):
        return RecordSource(
            "RECORDS", ((path, None) for path in listing.records_files()), "its RECORDS files are empty"
        )
    return RecordSource("listing", ((path, None) for path in listing.walk()), "no .hea file in any of its folders")


def _by_table(
    fs: AbstractFileSystem,
    root: str,
    metadata: str,
    mapping: ColumnMapping | None,
    unreadable: Counter[str],
    storage_options: dict[str, Any] | None,
) -> RecordSource:
    table_fs, path = _find_table(fs, root, metadata, storage_options)
    name = posixpath.basename(path)
    is_within = table_fs is fs and path == join(root, metadata)
    if is_within:
        open_within(fs, root, metadata).close()  # not through a link that the archive's writer has laid
    table = MetadataTable(table_fs, path, name)
    chosen = mapping or known_mapping(table.columns)
    if chosen is None:
        raise UserError(
            f"The columns of {name} are not known ({some(table.columns)}); say which is which with --mapping FILE."
        )
    if mapping is None and chosen.path == "filename_hr" and "filename_lr" in table.columns:
        chosen = _held_resolution(fs, root, table, chosen)
    return RecordSource(
        "table",
        table.rows(chosen, unreadable),
        f"no row of {name} names one",
        table=name,
        mapping=chosen,
        superclasses=_superclasses(table_fs, path, (root, metadata) if is_within else None),
    )


def _superclasses(fs: AbstractFileSystem, table: str, within: tuple[str, str] | None) -> dict[str, str]:
    """Return what the statements' table beside a metadata table says, nothing where there is none."""
    try:
        if within is None:
            stream = fs.open(posixpath.join(posixpath.dirname(table), STATEMENTS_TABLE), "rb")
        else:
            root, metadata = within
            stream = open_within(fs, root, posixpath.join(posixpath.dirname(metadata), STATEMENTS_TABLE))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"{STATEMENTS_TABLE} beside the metadata table cannot be read ({type(error).__name__}); restore PTB-XL's file."
        ) from error
    with stream:
        return read_superclasses(stream)


def _find_table(
    fs: AbstractFileSystem, root: str, metadata: str, storage_options: dict[str, Any] | None
) -> tuple[AbstractFileSystem, str]:
    """Return where the table is: a URL, an absolute path, a path within the archive, or one from the current folder."""
    if "://" in metadata:
        try:
            table_fs, path = open_filesystem(metadata, storage_options)
        except Exception as error:  # every file system raises its own
            raise UserError(
                f"The metadata table {without_credentials(metadata)!r} cannot be opened ({error})."
            ) from error
        return table_fs, path
    local = fsspec.filesystem("file")
    within = join(root, metadata)
    if not Path(metadata).is_absolute() and fs.exists(within):
        return fs, within
    if Path(metadata).expanduser().is_file():
        return local, str(Path(metadata).expanduser().absolute())
    raise UserError(f"There is no metadata table {metadata!r}, neither in the archive nor here; check --metadata.")


def _held_resolution(fs: AbstractFileSystem, root: str, table: MetadataTable, mapping: ColumnMapping) -> ColumnMapping:
    """PTB-XL holds each ECG at 500 and at 100 Hz: take 500 Hz, and 100 Hz where only that was fetched."""
    low = mapping.model_copy(update={"path": "filename_lr"})

    def is_there(choice: ColumnMapping) -> bool:
        first = table.first_path(choice)
        return bool(first) and fs.isdir(join(root, str(first).split("/", 1)[0]))

    return low if not is_there(mapping) and is_there(low) else mapping
