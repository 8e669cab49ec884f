"""``screening explain`` on real records, as a user types it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from screening.archive.catalog import build_catalog
from screening.archive.identity import PseudonymKey
from screening.contract import LEADS, NOTICE
from screening.errors import UserError
from screening.run.current import forget, refresh
from tests.report.screened import REJECTED, Screened, importance, screen

EXPLAINED, UNEXPLAINED, NOISY, LOST = 3, 5, 9, 13
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command as `screening.cli.main` does: a UserError is one sentence and exit code 1."""
    from screening.cli.explain import command

    def run(*arguments: object) -> tuple[int, str, str]:
        code, error = 0, ""
        try:
            code = command.main([str(a) for a in arguments], standalone_mode=False) or 0
        except UserError as refused:
            code, error = 1, str(refused)
        out, err = capsys.readouterr()
        return code, out, err + error

    return run


@pytest.fixture(scope="module")
def screened(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Screened:
    folder = tmp_path_factory.mktemp("explain")
    shutil.copytree(ptbxl, folder / "archive")
    for path in (folder / "archive").rglob("*"):
        path.chmod(0o755)
    sorted((folder / "archive").rglob("*.dat"))[LOST].unlink()

    def result(at: int, record_id: str) -> dict[str, Any]:
        if at == NOISY:
            return dict(REJECTED)
        return {"probability": 0.9, **importance(V2=1.5, III=-0.25)} if at == EXPLAINED else {}

    return screen(folder, folder / "archive", result)


@pytest.fixture(scope="module")
def ids(screened: Screened) -> list[str]:
    return [r for b in screened.opened().iter_batches(["record_id"]) for r in b["record_id"].to_pylist()]


@pytest.fixture
def where(screened: Screened) -> list[object]:
    return ["--runs", screened.runs.url, "--catalog", screened.catalog]


# --- On the terminal -------------------------------------------------------------------------------------------------


def test_a_flagged_record_is_told_with_its_leads(
    explain: Command, where: list[object], ids: list[str], screened: Screened
) -> None:
    code, out, _ = explain(ids[EXPLAINED], *where)
    assert code == 0
    assert "Probability of infarction  0.900, flagged (threshold 0.3); logit 2.20" in out
    assert "Leading leads              V2 +1.50" in out
    assert "Territory                  septal (septal +0.75," in out
    assert f"Run                        {screened.run_id}" in out
    assert "Importance of the leads in logits (8 donors, standard error 0.05;" in out
    bars = {line.split()[0]: line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in LEADS}
    assert list(bars) == list(LEADS)
    assert bars["V2"][1:] == ["+1.50", "#" * 30]
    assert bars["III"][1:] == ["-0.25", "-" * 5]
    assert len(bars["V5"]) == 2
    assert NOTICE in out


def test_a_record_without_importance_says_how_to_get_it(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[UNEXPLAINED], *where)
    assert code == 0
    assert "0.100, not flagged (threshold 0.3)" in out
    assert "The importance of the leads was not computed: run " in out
    assert "explained flagged records only. To get it: screening run --catalog " in out
    assert " --attribution all" in out


def test_a_rejected_record_says_why_in_words(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[NOISY], *where)
    assert code == 0
    assert "noise: noise hides the ECG: 0.9 mV above 40 Hz (limit 0.3 mV)" in out
    assert "The record was rejected: it has no score" in out
    assert "Probability" not in out
    _, out, _ = explain(ids[LOST], *where)
    assert "missing_file: a file of the record is not in the archive" in out


def test_json_has_the_row_and_what_follows_from_it(explain: Command, where: list[object], ids: list[str]) -> None:
    code, out, _ = explain(ids[EXPLAINED], *where, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["threshold"] == 0.3
    assert facts["row"]["record_id"] == ids[EXPLAINED]
    assert facts["row"]["importance_V2"] == 1.5
    assert (facts["leading_leads"], facts["territory"], facts["remarks"]) == (["V2"], "septal", [])
    assert facts["territories"]["septal"] == 0.75
    assert "T" in facts["row"]["acquired_at"]


# --- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ecg.png", "ecg.SVG", "deep/er/ecg.html"])
def test_a_file_is_for_its_owner_alone(
    name: str, explain: Command, where: list[object], ids: list[str], tmp_path: Path
) -> None:
    out = tmp_path / name
    before = os.umask(0)
    try:
        code, said, err = explain(ids[EXPLAINED], *where, "--out", out)
    finally:
        os.umask(before)
    assert code == 0, err
    assert said == f"Written: {out}\n"
    assert out.stat().st_mode & 0o777 == 0o600
    data = out.read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG")
    elif name.endswith("SVG"):
        words = [text.text for text in ElementTree.fromstring(data).iter("{http://www.w3.org/2000/svg}text")]
        assert {"Lead importance, in logits", f"record {ids[EXPLAINED]}", "+1.50"} <= set(words)
    else:
        assert data.count(b"<svg") == 1
        assert b"<script" not in data
        assert b"default-src 'none'" in data
        assert b"operator &#39;lead&#39;" in data
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_rejected_record_is_drawn_if_it_can_be_read(
    explain: Command, where: list[object], ids: list[str], tmp_path: Path
) -> None:
    code, _, _ = explain(ids[NOISY], *where, "--out", tmp_path / "noisy.svg")
    assert code == 0
    text = (tmp_path / "noisy.svg").read_text()
    assert "Rejected, not scored: noise: noise hides the ECG" in text
    assert "Lead importance" not in text
    code, _, err = explain(ids[LOST], *where, "--out", tmp_path / "lost.png")
    assert code == 1
    assert f"record {ids[LOST]} has no ECG to draw: a file of the record is not in the archive" in err
    assert not (tmp_path / "lost.png").exists()
    code, _, _ = explain(ids[LOST], *where, "--out", tmp_path / "lost.html")
    assert code == 0
    assert "No ECG is drawn: a file of the record is not in the archive" in (tmp_path / "lost.html").read_text()


def test_another_suffix_is_refused_before_anything_is_read(explain: Command, tmp_path: Path) -> None:
    code, _, err = explain("r", "--runs", tmp_path, "--catalog", tmp_path, "--out", tmp_path / "ecg.pdf")
    assert code == 1
    assert err.endswith(
        "ecg.pdf has none of the suffixes .png, .svg and .html, which say what is written; give it one."
    )


def test_a_record_that_has_changed_is_not_drawn_as_it_was_scored(
    explain: Command, screened: Screened, ids: list[str], tmp_path: Path
) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    shutil.copytree(screened.archive, archive)
    header = archive / f"{ids[EXPLAINED]}.hea"
    header.write_text(header.read_text() + "# edited\n")
    for end in ("hea", "dat"):
        (archive / f"{ids[UNEXPLAINED]}.{end}").unlink()
    table = archive / "ptbxl_database.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ids[UNEXPLAINED] not in line))
    build_catalog(str(archive), str(catalog), deidentified=True)
    where = ["--runs", screened.runs.url, "--catalog", catalog]
    code, out, _ = explain(ids[EXPLAINED], *where)
    assert code == 0
    assert "The record has changed since it was screened, and reports leave it out until it is screened again" in out
    code, _, err = explain(ids[EXPLAINED], *where, "--out", tmp_path / "ecg.png")
    assert code == 1
    assert "has no ECG to draw: the record has changed since it was screened" in err
    code, out, _ = explain(ids[UNEXPLAINED], *where)
    assert code == 0
    assert f"The catalog {catalog} does not hold the record any more" in out


# --- Records that no run has -----------------------------------------------------------------------------------------


def test_an_unknown_record_gets_the_nearest_help(
    explain: Command, where: list[object], ids: list[str], screened: Screened
) -> None:
    code, out, err = explain("00004", *where)
    assert (code, out) == (1, "")
    assert err == (
        f"record 00004 is neither in the catalog {screened.catalog} nor in a published run in {screened.runs.url}; "
        f"did you mean {ids[3]}?"
    )
    _, _, err = explain("nothing of the kind", *where)
    assert err.endswith("; a record is named by its path in the archive, without suffix.")


def test_a_record_that_was_not_screened_says_so(
    explain: Command, screened: Screened, ids: list[str], ptbxl: Path, tmp_path: Path
) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    shutil.copytree(ptbxl, archive)
    for path in archive.rglob("*"):
        path.chmod(0o755)
    table = archive / "ptbxl_database.csv"
    table.write_text(table.read_text().replace(ids[0], "records500/00000/99999_hr"))
    for end in ("hea", "dat"):
        (archive / f"{ids[0]}.{end}").rename(archive / f"records500/00000/99999_hr.{end}")
    build_catalog(str(archive), str(catalog), deidentified=True)
    code, _, err = explain("records500/00000/99999_hr", "--runs", screened.runs.url, "--catalog", catalog)
    assert code == 1
    assert f"is in the catalog {catalog}, but no published run in {screened.runs.url} has it; screen it with" in err


def test_a_forgotten_record_stays_forgotten(
    explain: Command, screened: Screened, ids: list[str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(screened.runs.path(""), runs)
    copy = type(screened.runs)(str(runs))
    patient = next(
        row["patient_key"]
        for b in screened.opened().iter_batches(["record_id", "patient_key"])
        for row in b.to_pylist()
        if row["record_id"] == ids[20]
    )
    refresh(copy)
    forget(copy, record_ids=[ids[EXPLAINED]], patient_keys=[patient])
    where = ["--runs", runs, "--catalog", screened.catalog]
    _, _, err = explain(ids[EXPLAINED], *where)
    assert err == f"record {ids[EXPLAINED]} was forgotten: it is left out of {runs} and of its reports."
    _, _, err = explain(ids[20], *where)
    assert err == f"record {ids[20]} is of a patient who was forgotten: it is left out of {runs} and of its reports."


def test_pseudonyms_are_asked_for_by_their_name(explain: Command, ptbxl: Path, tmp_path: Path) -> None:
    keyed = screen(tmp_path, ptbxl, lambda at, record_id: {}, key=PseudonymKey.of(b"k" * 32))
    code, _, err = explain("records500/00000/00001_hr", "--runs", keyed.runs.url, "--catalog", keyed.catalog)
    assert code == 1
    assert err.endswith(
        "; a record is named by its record_id, a pseudonym that results and worklist hold, and not by its path."
    )


def test_a_model_that_is_gone_is_named(explain: Command, screened: Screened, ids: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(screened.runs.path(""), runs)
    manifest = runs / "models" / screened.bundle_sha256 / "bundle.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace("0.3", "0.2"))
    where = ["--runs", runs, "--catalog", screened.catalog]
    code, _, err = explain(ids[EXPLAINED], *where)
    assert code == 1
    assert "bundle.json" in err
    manifest.unlink()
    code, _, err = explain(ids[EXPLAINED], *where)
    assert code == 1
    assert err.endswith("the model behind these rows, is not there; restore it from a copy")


def test_no_run_at_all_is_one_sentence(explain: Command, screened: Screened, tmp_path: Path) -> None:
    code, _, err = explain("r", "--runs", tmp_path, "--catalog", screened.catalog)
    assert code == 1
    assert "holds no published run" in err
