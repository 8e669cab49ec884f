"""``screening audit-explanations`` on a simulated archive, as a user types it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from screening.cli import main
from screening.contract import OPERATORS, TERRITORIES
from screening.model.bundle import CARD, load_bundle
from screening.signal.preprocess import Preprocessing
from screening.train.assemble import settings_json
from screening.train.data import load_training_set
from screening.train.explanation_tables import HEADING, PICTURES, amended
from tests.bundles import make_bundle
from tests.train.sets import FIT, SETTINGS

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit-explanations", *map(str, arguments), "--state", str(tmp_path / "state")])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def _catalog(folder: Path, records: int) -> Path:
    """Return a labelled catalog of simulated ECGs with infarcts in known places."""
    for command in (
        ["simulate", folder / "archive", "--records", records, "--prevalence", 0.5, "--seed", 3],
        ["catalog", folder / "archive", "--out", folder / "catalog", "--labels", "ptbxl-mi", "--deidentified"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in command])
        assert ended.value.code == 0
    return folder / "catalog"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _catalog(tmp_path_factory.mktemp("explained"), 60)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one from which networks can be trained and calibrated."""
    return _catalog(tmp_path_factory.mktemp("larger"), 200)


@pytest.fixture(scope="module")
def keen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of an untrained network that flags everything and has seen none of the records."""
    card = "# tiny 1\n\n## Figures\n\nNone.\n\n## Limits\n\nMany.\n"
    return make_bundle(tmp_path_factory.mktemp("keen") / "bundle", threshold=1e-6, card=card).path


def test_an_audit_is_written_and_put_into_the_card(audit: Command, catalog: Path, keen: Path, tmp_path: Path) -> None:
    out, destination = tmp_path / "out", tmp_path / "explained"
    arguments = ["--catalog", catalog, "--model", keen, "--donors", 4, "--records", 12]
    code, printed, err = audit(*arguments, "--out", out, "--bundle", destination)
    assert code == 0, err
    assert "tiny 1: The leading territory is one that the statements name in 0." in printed
    assert "exchanging parts of 12 flagged infarcts, donors as they are ..." in err
    assert sorted(path.name for path in out.iterdir()) == sorted(["explanations.md", "explanations.json", *PICTURES])
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)

    found = json.loads((out / "explanations.json").read_text())
    assert [of["name"] for of in found["networks"]] == ["the bundle's own"]
    assert found["explained"]["flagged infarcts explained, one ECG a patient"] == 12
    assert found["explained"]["no beats found"] == 0
    methods = {(row["method"], row["donors"]) for row in found["localisation"]}
    for method in ("territory", "lead, mean", "independent, mean"):
        assert {(method, "as they are"), (method, "laid on the record's beats")} <= methods
    assert {("integrated gradients, by leads", ""), ("random", "")} <= methods
    assert ("wave, sum", "as they are") not in methods  # waves need beats that are laid on each other
    placed = found["explained"]["place stated"]
    for row in found["localisation"]:
        assert row["n"] == placed == sum(row["leading"].values())
        assert 0 <= row["hits"]["low"] <= row["hits"]["value"] <= row["hits"]["high"] <= 1
    assert set(found["cohort"]["territory"]["MI vs all other"]) == set(TERRITORIES)
    assert set(found["cohort"]["lead"]["MI vs all other"]) == set(OPERATORS["lead"])
    assert set(found["sanity"]) == {"all weights random", "classifier random"}
    assert found["retrained"] == {"groups": {}, "rank_correlation": None}
    # What the curves begin and end with does not depend on the order.
    for row in found["deletion"]:
        ends = [(of[0], of[-1]) for of in row["deletion"]["logit"].values()]
        assert ends[0] == pytest.approx(ends[1])
        assert ends[0] == pytest.approx(ends[2])
        assert row["deletion"]["flagged"]["most"][0] == 1.0

    section = (out / "explanations.md").read_text()
    assert section.startswith(HEADING + "\n")
    assert "nan" not in section
    assert all(f"]({name})" in section for name in PICTURES)
    bundle, before = load_bundle(destination), load_bundle(keen)
    card = (destination / CARD).read_text()
    assert card == f"# tiny 1\n\n## Figures\n\nNone.\n\n{section}\n## Limits\n\nMany.\n"
    assert bundle.sha256 != before.sha256
    assert set(bundle.files) - set(before.files) == set(PICTURES)
    unchanged = set(before.files) - {CARD}
    assert {name: bundle.files[name] for name in unchanged} == {name: before.files[name] for name in unchanged}

    # The same again, from the amended bundle: the same section in the place of the first.
    again = tmp_path / "again"
    arguments[3] = destination
    code, printed, err = audit(*arguments, "--out", tmp_path / "out2", "--bundle", again, "--json")
    assert code == 0, err
    assert json.loads(printed) == found
    assert load_bundle(again).sha256 == bundle.sha256


@pytest.mark.long
def test_records_that_the_model_has_seen_are_explained_by_networks_trained_without_them(
    audit: Command, larger: Path, tmp_path: Path
) -> None:
    records = load_training_set(str(larger), Preprocessing())
    settings = SETTINGS.model_copy(update={"fit": replace(FIT, learning_rate=1e-2)})
    model = make_bundle(
        tmp_path / "bundle",
        seen={"trained": list(records.record_sha256)},
        training={"settings": settings_json(settings)},
    ).path
    networks = tmp_path / "state" / "trials"
    arguments: list[Any] = [
        "--catalog",
        larger,
        "--model",
        model,
        "--state",
        tmp_path / "state",
        "--donors",
        4,
        "--records",
        12,
    ]
    code, printed, err = audit(*arguments, "--out", tmp_path / "one", "--retrain", "septal", "--json")
    assert code == 0, err
    assert err.count("training a network without folds") == 3 + 3
    found = json.loads(printed)
    assert sum(of["records"] for of in found["networks"]) == len(records)
    assert set(found["retrained"]["groups"]) == {"septal"}
    assert "| septal |" in (tmp_path / "one" / "explanations.md").read_text()
    assert sorted(path.suffix for path in networks.iterdir()) == [".json"] * 3 + [".parquet"] * 3 + [".safetensors"] * 3

    code, printed, err = audit(*arguments, "--out", tmp_path / "two", "--json")
    assert code == 0, err
    assert "training" not in err
    assert json.loads(printed) == found


def test_bad_input_is_one_sentence(
    audit: Command, catalog: Path, keen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["--catalog", catalog, "--out", out]
    code, _, err = audit(*arguments, "--model", keen, "--retrain", "heart")
    assert (code, err) == (
        1,
        "Error: --retrain: unknown heart; known are septal, anterior, lateral, inferior, limb, precordial, or all.\n",
    )
    code, _, err = audit(*arguments, "--model", keen, "--retrain", "limb")
    assert (
        code,
        err.splitlines()[-1].startswith("Error: --retrain compares with networks trained on this catalog"),
    ) == (1, True)
    code, _, err = audit(*arguments, "--model", keen, "--bundle", keen)
    assert (code, err) == (1, f"Error: {keen} exists already; name another folder for the bundle.\n")
    strict = make_bundle(tmp_path / "strict", threshold=1 - 1e-9).path
    code, _, err = audit(*arguments, "--model", strict)
    assert code == 1
    assert "Error: 0 labelled infarcts are flagged and have beats, and two are needed; give a larger catalog." in err
    code, _, err = audit(*arguments, "--model", keen, "--donors", 128)
    assert code == 1
    assert "a record has fewer than 128 donors among the" in err
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    code, _, err = audit(*arguments, "--model", keen)
    assert (code, err) == (
        1,
        "Error: the audit compares with captum's integrated gradients, and captum is not installed; "
        "install it: pip install captum.\n",
    )
    out.mkdir()
    (out / "mine").touch()
    code, _, err = audit(*arguments, "--model", keen)
    assert (code, err) == (1, f"Error: {out} exists and is not an empty folder; name another one.\n")


def test_a_section_takes_the_place_of_an_earlier_one() -> None:
    section = "## Explanations\n\nNew.\n"
    for card, expected in (
        ("# A\n\nText.\n", "# A\n\nText.\n\n## Explanations\n\nNew.\n"),
        ("# A\n\n## Limits\n\nL.\n", "# A\n\n## Explanations\n\nNew.\n\n## Limits\n\nL.\n"),
        (
            "# A\n\n## Explanations\n\nOld.\n\n### Sanity\n\nOld.\n\n## Technical\n\nT.\n",
            "# A\n\n## Explanations\n\nNew.\n\n## Technical\n\nT.\n",
        ),
        ("# A\n\n## Explanations\n\nOld.\n", "# A\n\n## Explanations\n\nNew.\n"),
    ):
        assert amended(card, section) == expected
        assert amended(expected, section) == expected


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit-explanations", "--help"])
    assert capsys.readouterr().out.count("\n  screening audit-explanations") == 2
