"""``screening audit-labels`` on a simulated archive, as a user types it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from screening.cli import main
from screening.model.out_of_fold import OutOfFold
from screening.signal.preprocess import Preprocessing
from screening.train.data import TrainingSet, load_training_set
from tests.bundles import make_bundle

RECORDS, TURNED = 40, 3
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit-labels", *map(str, arguments), "--state", str(tmp_path / "state")])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a labelled ``catalog`` of simulated ECGs."""
    folder = tmp_path_factory.mktemp("audit")
    for command in (
        ["simulate", folder / "archive", "--records", RECORDS, "--prevalence", 0.4, "--seed", 3],
        ["catalog", folder / "archive", "--out", folder / "catalog", "--labels", "ptbxl-mi", "--deidentified"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in command])
        assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> TrainingSet:
    return load_training_set(str(folder / "catalog"), Preprocessing())


@pytest.fixture(scope="module")
def turned(records: TrainingSet) -> list[str]:
    """Return the records whose label the predictions contradict: infarcts by name, and one without."""
    positive = records.record_id[records.target == 1].tolist()
    return [*positive[: TURNED - 1], records.record_id[records.target == 0][0]]


@pytest.fixture(scope="module")
def bundle(folder: Path, records: TrainingSet, turned: list[str]) -> Path:
    """Return a bundle whose predictions follow the labels, but for some; they lack one record of the catalog."""
    rng = np.random.default_rng(0)
    p = np.where(records.target == 1, 0.8, 0.1) + rng.uniform(-0.05, 0.05, len(records))
    wrong = np.isin(records.record_id, turned)
    p[wrong] = np.where(records.target[wrong] == 1, 0.01, 0.95)
    kept = np.argsort(records.record_sha256.astype(str))
    kept = kept[kept != int(np.flatnonzero(~wrong)[-1])]
    predictions = OutOfFold(
        records.record_sha256, records.fold, p.astype(np.float32), p.astype(np.float64), p > 0.5
    ).where(kept)
    return make_bundle(folder / "bundle", out_of_fold=predictions).path


def test_the_contradicted_labels_are_listed_and_drawn(
    audit: Command, folder: Path, bundle: Path, records: TrainingSet, turned: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, err = audit("--catalog", folder / "catalog", "--model", bundle, "--out", out, "--limit", 2)
    assert code == 0, err
    assert f"tiny 1, {len(records) - 1} records with an out-of-fold prediction" in printed
    assert f"{TURNED} labels are confidently contradicted: {TURNED - 1} labelled MI" in printed
    assert "A contradiction is no proof" in printed
    with (out / "audit.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["record_id"] for row in rows) == sorted(turned)
    assert [float(row["margin"]) for row in rows] == pytest.approx([0.98, 0.98, 0.9])
    stated = dict(zip(records.record_id.tolist(), records.statements.tolist(), strict=True))
    for row in rows:
        assert row["statements"] == (", ".join(stated[row["record_id"]]) or "none")
        assert ("the probability of none" in row["why"]) == (row["label"] == "MI")
    # Two are drawn: the strongest of each kind.
    assert [bool(row["plot"]) for row in rows] == [True, False, True]
    assert sorted(path.name for path in (out / "plots").iterdir()) == ["0001.png", "0003.png"]
    for row in rows:
        assert not row["plot"] or (out / row["plot"]).read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "audit.json").read_text())
    assert (summary["suspects"], summary["without_prediction"]) == (TURNED, 1)
    assert 0 < summary["estimated_share_of_wrong_labels"] < 0.2

    class Images(HTMLParser):
        found: list[str | None] = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag == "img":
                self.found.append(dict(attributes)["src"])

    page = (out / "index.html").read_text()
    parser = Images()
    parser.feed(page)
    assert parser.found == ["plots/0001.png", "plots/0003.png"]
    assert "no result is a diagnosis" in page

    code, _, err = audit("--catalog", folder / "catalog", "--model", bundle, "--out", out)
    assert code == 1
    assert err == f"Error: {out} exists and is not an empty folder; name another one.\n"


def test_json_and_no_plots(audit: Command, folder: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, err = audit("--catalog", folder / "catalog", "--model", bundle, "--out", out, "--no-plots", "--json")
    assert code == 0, err
    assert json.loads(printed)["suspects"] == TURNED
    assert sorted(path.name for path in out.iterdir()) == ["audit.csv", "audit.json", "index.html"]
    assert "<img" not in (out / "index.html").read_text()


def test_bad_input_is_one_sentence(
    audit: Command, folder: Path, records: TrainingSet, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = make_bundle(tmp_path / "plain").path
    out = tmp_path / "out"
    code, printed, err = audit("--catalog", folder / "catalog", "--model", plain, "--out", out)
    assert (code, printed) == (1, "")
    assert err == (
        "Error: model tiny 1 holds no out-of-fold predictions, which an audit needs; train it with nested "
        "cross-validation.\n"
    )
    strangers = OutOfFold(
        np.array(["f" * 64], object), np.ones(1, np.int16), np.zeros(1, np.float32), np.full(1, 0.5), np.ones(1, bool)
    )
    other = make_bundle(tmp_path / "other", out_of_fold=strangers).path
    code, _, err = audit("--catalog", folder / "catalog", "--model", other, "--out", out)
    assert code == 1
    assert f"none of the {len(records)} labelled records of the catalog" in err
    assert "is among the 1 out-of-fold predictions of model tiny 1; give the catalog it was trained on." in err
    one = dict.fromkeys(records.record_sha256[records.target == 1].tolist())
    one_class = OutOfFold(
        np.array(sorted(one), object),
        np.ones(len(one), np.int16),
        np.zeros(len(one), np.float32),
        np.full(len(one), 0.5),
        np.ones(len(one), bool),
    )
    lame = make_bundle(tmp_path / "lame", out_of_fold=one_class).path
    code, _, err = audit("--catalog", folder / "catalog", "--model", lame, "--out", out)
    assert code == 1
    assert err.endswith("cannot be audited: labels must be 0 and 1, both present.\n")
    code, _, err = audit("--catalog", tmp_path / "nowhere", "--model", lame, "--out", out)
    assert code == 1
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit-labels", "--help"])
    assert capsys.readouterr().out.count("\n  screening audit-labels") == 2
