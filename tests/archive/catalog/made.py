"""Archives for tests of the catalog, and what was made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from screening.archive.build import CatalogSummary
from screening.archive.catalog import open_catalog
from screening.archive.identity import PseudonymKey

KEY = PseudonymKey.of(b"a key for tests, 32 characters long")
HEADER = "{name} 2 500 5000\n{name}.dat 16 1000/mV 16 0 0 0 0 I\n{name}.dat 16 1000/mV 16 0 0 0 0 II\n"


def add_record(root: Path, path: str, comments: str = "", *, data: bytes = b"\0" * 20) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(file.name + ".hea").write_text(HEADER.format(name=file.name) + comments)
    file.with_name(file.name + ".dat").write_bytes(data)


def rows_of(catalog: str | Path, **options: Any) -> list[dict[str, Any]]:
    batches = open_catalog(str(catalog), **options).iter_batches(with_location=True)
    return [row for batch in batches for row in batch.to_pylist()]


def counts(summary: CatalogSummary) -> tuple[int, int, int, int, int]:
    return summary.records, summary.new, summary.changed, summary.unchanged, summary.gone
