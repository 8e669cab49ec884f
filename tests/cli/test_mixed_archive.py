"""``screening explain`` and ``screening report`` on records of every format, beside each other in one archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from screening.archive.identity import PseudonymKey
from screening.cli import explain, report
from screening.contract import LEADS
from tests import hospital_files as made
from tests.corpus.hospital_files import digital, file_of
from tests.people import PERSON
from tests.privacy.search import search
from tests.report.screened import Screened, importance, screen, territories, waves
from tests.wfdb_files import record

FOUND = "Pathological Q in the inferior leads (Q: III 45 ms 0.32 mV)."
TABLES = {"csv": made.csv(digital()), "npy": made.npy(digital())}
SECRETS = {"id": PERSON.id, "name": PERSON.surname, "place in the archive": "an-unusual-folder"}


def run(command: Any, *arguments: object) -> str:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Screened:
    folder = tmp_path_factory.mktemp("mixed")
    root = folder / "archive" / "an-unusual-folder"
    root.mkdir(parents=True)
    for form, (suffix, _) in made.WRITERS.items():
        (root / f"{form}{suffix}").write_bytes(file_of(form))
    for form, data in TABLES.items():
        (root / f"{form}.{form}").write_bytes(data)
    (root / "many.h5").write_bytes(made.hdf5({5: digital(), 6: digital()}, samples=5000))
    (root / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS)))
    for name, data in record().items():
        (root / name).write_bytes(data)
    (root / "cut.xml").write_bytes(file_of("muse-xml")[:9_000])

    def result(*_: object) -> dict[str, Any]:
        found = waves(FOUND, QRS_inferior=0.75, T_lateral=-0.5)
        return {"probability": 0.9, **importance(V2=1.5), **territories(inferior=2.0), **found}

    return screen(folder, folder / "archive", result, key=PseudonymKey.of(b"k" * 32))


@pytest.mark.parametrize("form", [*made.WRITERS, *TABLES, "hdf5", "wfdb"])
def test_a_record_of_any_format_is_explained_and_drawn(screened: Screened, form: str, tmp_path: Path) -> None:
    rows = [row for batch in screened.opened().iter_batches() for row in batch.to_pylist()]
    whole = max(
        (row for row in rows if row["format"] == form), key=lambda row: row["bytes"]
    )  # one MUSE file is cut off
    where = ("--runs", screened.runs.url, "--catalog", screened.catalog)
    told = run(explain.command, whole["record_id"], *where, "--out", tmp_path / "ecg.html")
    assert "ecg.html" in told
    page = (tmp_path / "ecg.html").read_text()
    assert FOUND in page
    assert "No ECG is drawn" not in page
    assert not search(tmp_path, SECRETS)


def test_a_report_over_all_formats_names_nobody(screened: Screened, tmp_path: Path) -> None:
    where = ("--runs", screened.runs.url, "--catalog", screened.catalog)
    told = run(report.command, *where, "--out", tmp_path / "report", "--no-mlflow")
    assert f"Report: {tmp_path}/report/report.html" in told
    assert not search(tmp_path / "report", SECRETS)
