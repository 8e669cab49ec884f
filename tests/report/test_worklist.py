"""The worklist: who is on it, in which order, and that neither it nor what stands in it does harm."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from screening.archive.catalog import Catalog
from screening.contract import NOTICE, RESULT_COLUMNS, TERRITORIES
from screening.report import worklist
from screening.report.facts import Frame, joined
from screening.report.patient import describe, person, plot_head
from screening.report.worklist import CSV_COLUMNS, Worklist, write_worklist
from screening.run.current import forget, refresh
from screening.storage import Folder
from tests.report.screened import REJECTED, THRESHOLD, Screened, importance, screen, territories, waves

SCRIPT, FORMULA = "<script>alert('x')</script>", '=HYPERLINK("http://evil.example")'
TODAY = date(2026, 1, 1)
FOUND = "=Pathological Q in the septal leads (Q: V1 45 ms 0.32 mV)."
"""As no program writes it, so that it could be a formula."""
FLAGGED = {3: 0.95, 7: 0.6, 11: 0.9, 20: 0.31, 33: 0.9, 40: 0.7}
"""Place in the catalog -> probability."""


@pytest.fixture(scope="module")
def archive(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive with hostile names of devices and sites, as a table may hold them."""
    folder = tmp_path_factory.mktemp("hostile") / "archive"
    shutil.copytree(ptbxl, folder)
    table = folder / "ptbxl_database.csv"
    os.chmod(table, 0o644)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for at, row in enumerate(rows):
        row["device"] = (SCRIPT, FORMULA, "+1", "AT-6 6")[at % 4]
        row["site"] = "\t=1+1" if at % 2 else 'a" onload="alert(1)'
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def screened(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Screened:
    def result(at: int, record_id: str) -> dict[str, Any]:
        if at == 50:
            return dict(REJECTED)
        if at not in FLAGGED:
            return {}
        explained = importance(V2=2.0, V1=1.0, II=-0.5) if at != 7 else {}
        explained |= territories(lateral=1.5, septal=0.25, inferior=-0.5) if at in (3, 11) else {}
        explained |= waves(FOUND, QRS_septal=0.5) if at == 3 else {}
        explained |= {} if at != 40 else territories(lateral=-0.5, septal=-1.0, anterior=-2.0, inferior=-0.1)
        return {"probability": FLAGGED[at], "quality_flags": "baseline,noise" if at == 3 else "", **explained}

    return screen(tmp_path_factory.mktemp("worklist"), archive, result)


@pytest.fixture(scope="module")
def ids(screened: Screened) -> list[str]:
    return [r for b in screened.opened().iter_batches(["record_id"]) for r in b["record_id"].to_pylist()]


def write(screened: Screened, out: Path, **options: Any) -> tuple[Worklist, list[dict[str, str]]]:
    written = listed(out, screened, screened.opened(), **options)
    with open(written.csv, newline="", encoding="utf-8") as file:
        return written, list(csv.DictReader(file))


def listed(out: Path | Folder, screened: Screened, catalog: Catalog, **options: Any) -> Worklist:
    """Join and list."""
    rest = {"index_rule": "latest", "since": None, "until": None, "today": TODAY}
    frame = Frame(
        **{name: options.pop(name, value) for name, value in rest.items()},
        age_edges=(0,),
        most_places=1,
        smallest_place=1,
    )
    with joined(refresh(screened.runs), catalog, frame) as of:
        return write_worklist(out if isinstance(out, Folder) else Folder(str(out)), of, **options)


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.elements if "id" in attrs]

    @property
    def links(self) -> list[str]:
        return [attrs["href"] or "" for tag, attrs in self.elements if tag == "a"]


@pytest.fixture(scope="module")
def written(screened: Screened, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    out = tmp_path_factory.mktemp("out") / "worklist"
    done, rows = write(screened, out, plots=4)
    assert (done.patients, done.drawn, done.lost) == (6, 4, 0)
    return out, rows


# --- Who is on it ----------------------------------------------------------------------------------------------------


def test_the_flagged_stand_in_the_order_of_probability(
    written: tuple[Path, list[dict[str, str]]], ids: list[str], screened: Screened
) -> None:
    _, rows = written
    assert tuple(rows[0]) == CSV_COLUMNS
    expected = sorted(FLAGGED, key=lambda at: (-FLAGGED[at], ids[at]))
    assert [row["record_id"] for row in rows] == [ids[at] for at in expected]
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["probability"]) for row in rows] == pytest.approx([FLAGGED[at] for at in expected])
    for row in rows:
        assert float(row["threshold"]) == THRESHOLD
        assert (row["run_id"], row["bundle_sha256"]) == (screened.run_id, screened.bundle_sha256)
    stated = {row["record_id"]: row for b in screened.opened().iter_batches() for row in b.to_pylist()}
    for row in rows:
        own = stated[row["record_id"]]
        assert row["patient_key"] == own["patient_key"]
        assert row["acquired_at"] == f"{own['acquired_at']:%Y-%m-%d %H:%M:%S}"
        assert (row["sex"], float(row["age"])) == (own["sex"], own["age"])


def test_importance_is_said_by_lead_and_territory(written: tuple[Path, list[dict[str, str]]], ids: list[str]) -> None:
    _, rows = written
    by_record = {row["record_id"]: row for row in rows}
    explained, unexplained = by_record[ids[3]], by_record[ids[7]]
    assert (explained["leading_leads"], explained["leading_territory"]) == ("V2 V1", "lateral")
    assert [float(explained[f"territory_{wall}"]) for wall in TERRITORIES] == [0.25, 0, 1.5, -0.5]
    assert [float(explained[f"territory_se_{wall}"]) for wall in TERRITORIES] == [0.1, 0.2, 0.3, 0.4]
    assert explained["territory_donors"] == "16"
    assert explained["findings"] == f"'{FOUND}"  # it could be a formula
    assert float(explained["importance_V2"]) == 2.0
    assert explained["quality_flags"] == "baseline,noise"
    empty = (
        "leading_leads",
        "leading_territory",
        "findings",
        "territory_septal",
        "territory_se_septal",
        "importance_V2",
    )
    assert {unexplained[name] for name in empty} == {""}
    assert by_record[ids[40]]["leading_territory"] == ""
    assert by_record[ids[11]]["findings"] == ""


def test_leads_alone_say_nothing_of_territories(written: tuple[Path, list[dict[str, str]]], ids: list[str]) -> None:
    """A territory is no mean of leads: where it was not exchanged, it is not known."""
    out, rows = written
    (only_leads,) = [row for row in rows if row["record_id"] == ids[33]]
    assert (only_leads["leading_leads"], only_leads["leading_territory"]) == ("V2 V1", "")
    assert {only_leads[f"territory_{wall}"] for wall in TERRITORIES} == {""}
    section = Page(out / "worklist.html").source.split(f'<section id="r{only_leads["rank"]}"')[1].split("</section>")[0]
    assert "<dt>Leading leads</dt>" in section
    assert "erritor" not in section


def test_one_ecg_a_patient_and_the_forgotten_are_left_out(screened: Screened, ids: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(screened.runs.path(""), runs)
    copy = dataclasses.replace(screened, runs=Folder(str(runs)))
    refresh(copy.runs)
    forget(copy.runs, record_ids=[ids[3]])
    done, rows = write(copy, tmp_path / "out", plots=0)
    assert done.patients == 5
    assert ids[3] not in {row["record_id"] for row in rows}
    assert len({row["patient_key"] for row in rows}) == 5
    none, rows = write(copy, tmp_path / "out", plots=5, until=date(1900, 1, 1))
    assert (none.patients, none.drawn, rows) == (0, 0, [])
    assert "Nobody is flagged." in Page(tmp_path / "out" / "worklist.html").source


# --- Harmless --------------------------------------------------------------------------------------------------------


def test_only_the_owner_reads_it(screened: Screened, tmp_path: Path) -> None:
    out = tmp_path / "worklist"
    out.mkdir(mode=0o755)
    (out / "worklist.csv").write_text("old")
    before = os.umask(0)
    try:
        write(screened, out, plots=1)
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in out.iterdir()) == ["worklist-002.html", "worklist.csv", "worklist.html"]
    for path in out.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_no_cell_is_a_formula(written: tuple[Path, list[dict[str, str]]]) -> None:
    out, rows = written
    cells = [cell for row in rows for name, cell in row.items() if name in ("device", "site", "record_id")]
    assert any("HYPERLINK" in cell for cell in cells)
    assert any("=1+1" in cell for cell in cells)
    assert not [cell for cell in cells if re.match(r"\s*[=+\-@\t\r]", cell)]
    assert f"'{FORMULA}" in cells


def test_what_the_archive_says_stays_text(written: tuple[Path, list[dict[str, str]]]) -> None:
    out, _ = written
    for path in out.glob("*.html"):
        page = Page(path)
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "iframe", "object", "img", "link", "form", "foreignobject"}
        names = {name for _, attrs in page.elements for name in attrs}
        assert not [name for name in names if name.startswith("on") or name == "style"]
        (policy,) = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
        assert policy is not None
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert not re.findall(r"(?:src|href)=\"(?!#|worklist)", page.source)
        assert len(page.ids) == len(set(page.ids))
        assert NOTICE in page.text
    first = Page(out / "worklist.html")
    assert any(SCRIPT in text for text in first.text)
    assert SCRIPT not in first.source


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_each_patient_has_facts_and_the_ecg_that_was_scored(
    written: tuple[Path, list[dict[str, str]]], ids: list[str]
) -> None:
    out, rows = written
    page = Page(out / "worklist.html")
    drawn = rows[:4]
    assert [link for link in page.links if link.startswith("#")] == [f"#r{rank}" for rank in (1, 2, 3, 4)]
    assert {f"r{rank}" for rank in (1, 2, 3, 4)} <= set(page.ids)
    svgs = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert len(svgs) == 4
    for svg, row in zip(svgs, drawn, strict=True):
        words = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert f"record {row['record_id']}" in words
        assert words[0] is not None
        assert words[0].startswith(f"{row['rank']}. Probability of infarction")
    said = " ".join(page.text)
    assert "0.950, flagged (threshold 0.3); logit 2.94" in said
    assert "lateral +1.50 (+0.91 to +2.09)" in said
    assert (
        "septal +0.25 (+0.05 to +0.45), anterior 0 (−0.39 to +0.39), lateral +1.50 (+0.91 to +2.09), inferior" in said
    )
    assert "16 donors, operator 'territory'" in said
    assert said.count(FOUND) >= 3  # in the list, among the facts and over the ECG
    assert "baseline: strong baseline wander; noise: strong high-frequency noise" in said
    assert "It is a hint where to look: not the place of an infarct, and no diagnosis." in said
    assert "operator 'lead'" in said
    assert [row["ecg"] for row in rows] == [*(f"worklist.html#r{rank}" for rank in (1, 2, 3, 4)), "", ""]


def test_many_patients_are_split_into_pages(
    screened: Screened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist, "PATIENTS_A_PAGE", 2)
    monkeypatch.setattr(worklist, "ROWS_A_PAGE", 2)
    monkeypatch.setattr(worklist, "MOST_LISTED", 2)
    monkeypatch.setattr(worklist, "BATCH_ROWS", 1)
    out = tmp_path / "worklist"
    out.mkdir()
    for stale in ("worklist-009.html", "notes.txt"):
        (out / stale).write_text("old")
    done, rows = write(screened, out, plots=3)
    pages = ["worklist.html", "worklist-002.html", "worklist-003.html"]
    assert sorted(path.name for path in out.glob("*.html")) == sorted(pages)
    assert (out / "notes.txt").read_text() == "old"
    ranks = [[int(i[1:]) for i in Page(out / name).ids if re.fullmatch(r"r\d+", i)] for name in pages]
    assert ranks == [[1, 2], [3], [4, 5]]
    for name in pages:
        assert [link for link in Page(out / name).links if link.endswith(".html")] == [p for p in pages if p != name]
    assert "1 more are in" in Page(out / pages[-1]).source
    assert "more are in" not in Page(out / pages[0]).source
    assert [row["ecg"] for row in rows][:3] == ["worklist.html#r1", "worklist.html#r2", "worklist-002.html#r3"]
    assert len(rows) == done.patients == 6


def test_a_record_that_cannot_be_read_keeps_its_row(screened: Screened, ids: list[str], tmp_path: Path) -> None:
    """One is gone, one has changed, one is damaged: each says why, and the others are drawn."""
    moved = tmp_path / "archive"
    shutil.copytree(screened.archive, moved)
    for path in moved.rglob("*"):
        path.chmod(0o755)
    (moved / f"{ids[3]}.dat").unlink()
    header = moved / f"{ids[11]}.hea"
    header.write_text(header.read_text() + "# another comment\n")
    signal = moved / f"{ids[33]}.dat"
    signal.write_bytes(signal.read_bytes()[:-1000])
    catalog = dataclasses.replace(screened.opened(), root_url=str(moved))
    done = listed(tmp_path / "out", screened, catalog)
    assert (done.patients, done.drawn, done.lost) == (6, 3, 3)
    with open(done.csv, newline="") as file:
        ecg = {row["record_id"]: row["ecg"] for row in csv.DictReader(file)}
    assert ecg[ids[3]].endswith("or may not be read by this account: a file of the record is not in the archive")
    assert ecg[ids[11]] == "the record has changed since it was screened; `screening run` screens it again"
    assert ecg[ids[7]].startswith("worklist.html#r")
    text = " ".join(Page(Path(done.html)).text)
    assert text.count("No ECG is drawn:") == 3


def test_an_archive_that_cannot_be_reached_costs_the_ecgs_only(screened: Screened, tmp_path: Path) -> None:
    catalog = dataclasses.replace(screened.opened(), root_url=str(tmp_path / "unmounted"))
    seen: list[int] = []
    done = listed(tmp_path / "out", screened, catalog, progress=seen.append)
    assert (done.patients, done.drawn, done.lost, len(seen)) == (6, 0, 6, 6)
    text = " ".join(Page(Path(done.html)).text)
    assert text.count("the archive could not be read (the archive's folder is gone or empty)") == 3
    assert text.count("the archive cannot be reached") == 3


def test_it_goes_to_any_file_system(screened: Screened) -> None:
    folder = Folder("memory://worklists/today")
    done = listed(folder, screened, screened.opened(), plots=1)
    assert folder.names() == ["worklist-002.html", "worklist.csv", "worklist.html"]
    assert folder.read("worklist.csv").count(b"\r\n") == 1 + done.patients
    folder.filesystem.rm(folder.path(""), recursive=True)


def test_unknown_age_sex_date_and_patient_are_said() -> None:
    nobody = dict.fromkeys(
        ("age", "sex", "acquired_at", "patient_key", "site", "device", "duration_s", "source_rate_hz")
    )
    row = dict.fromkeys(name for name, *_ in RESULT_COLUMNS) | {
        **nobody,
        **importance(),
        "record_id": "r",
        "status": "scored",
        "flagged": True,
        "probability": 0.99999,
    }
    row |= {"logit": -0.004, "quality_flags": None, "source_format": None, "unit_source": None, "run_id": "0"}
    row |= {"model_name": "m", "model_version": "1", "bundle_sha256": "b" * 64, "age": float("nan")}
    said = dict(describe(row, None))
    assert said["Age and sex"] == "age and sex unknown"
    assert {said[term] for term in ("Patient", "Acquired", "Site", "Device", "Recording")} == {"unknown"}
    assert said["Probability of infarction"].startswith("over 0.999, flagged; logit")
    assert said["Leading leads"] == "none speaks for infarction; 8 donors, operator 'lead'"
    assert "Leading territory" not in said
    assert "Findings" not in said
    said = dict(describe(row | territories(septal=-1.0) | waves(""), None))
    assert said["Leading territory"] == "none speaks for infarction"
    assert said["Findings"].startswith("no sign of infarction that the measured amplitudes support")
    assert person({"age": 90.0, "sex": "female"}) == "90 years or older, female"
    assert len(plot_head(row, 0.3, rank=1)) <= 6


def test_a_list_that_is_cut_says_so(screened: Screened, tmp_path: Path) -> None:
    done, rows = write(screened, tmp_path / "out", patients=2, plots=1)
    assert (done.patients, done.listed, done.drawn) == (6, 2, 1)
    assert [float(row["probability"]) for row in rows] == [0.95, 0.9]
    text = " ".join(" ".join(Page(Path(done.html)).text).split())
    assert "6 patients are flagged" in text
    assert "the first 2 are in worklist.csv" in text
    assert "--worklist-patients sets how many" in text
