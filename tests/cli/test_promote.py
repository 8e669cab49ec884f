"""``screening register``, ``promote``, ``rollback`` and ``models --history``, as a user types them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from screening.cli import main
from screening.model.bundle import PRETRAINED, Bundle, Counts, OperatingCharacteristics, load_bundle
from screening.model.out_of_fold import OutOfFold
from screening.signal.preprocess import Preprocessing
from screening.train.data import TrainingSet, load_training_set
from tests.bundles import make_bundle

GATE = """\
auroc_margin: 0.05
sensitivity_margin: 0.12
sensitivity_floor: 0.3
specificity_floor: 0.5
calibration_slope: [0.1, 20]
calibration_error: 0.5
resamples: 200
"""
TRAINING = {
    "catalog": {"catalog_id": "c" * 64, "label_rule": "ptbxl-mi"},
    "settings": {"fit": {"epochs": 2}},
    "history": [{"epoch": 0, "loss": 1.0}],
}
FIGURES = {"MI vs all other: auroc": {"value": 0.9, "low": 0.85, "high": 0.95}}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def screening(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Return a function that runs a command with a state folder of its own: exit code, output, errors."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([command, *map(str, arguments), "--state", str(tmp_path / "state")])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a labelled catalog of 240 simulated ECGs."""
    folder = tmp_path_factory.mktemp("archive")
    for command in (
        ["simulate", folder / "archive", "--records", 240, "--prevalence", 0.4, "--seed", 1],
        ["catalog", folder / "archive", "--out", folder / "catalog", "--labels", "ptbxl-mi", "--deidentified"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in command])
        assert ended.value.code == 0
    return folder / "catalog"


@pytest.fixture(scope="module")
def bundles(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Return two good models and a bad one that have seen it all and carry out-of-fold predictions."""
    records = load_training_set(str(catalog), Preprocessing())
    folder = tmp_path_factory.mktemp("bundles")
    return [make(folder, records, version, noise) for version, noise in (("a", 0.8), ("b", 0.7), ("c", 4.0))]


def make(folder: Path, records: TrainingSet, version: str, noise: float) -> Bundle:
    rng = np.random.default_rng(0)
    logit = (2 * records.target - 1 + noise * rng.normal(0, 1, len(records))).astype(np.float32)
    probability = expit(logit.astype(np.float64))
    order = np.argsort(records.record_sha256.astype(str))
    return make_bundle(
        folder / version,
        version=version,
        training=TRAINING,
        operating_characteristics=OperatingCharacteristics(
            data="made up", reference="made up", overall=Counts(TP=8, FN=2, TN=27, FP=3), subgroups={}, figures=FIGURES
        ),
        seen={"trained": records.record_sha256.tolist(), "tuned": [], "calibrated": []},
        out_of_fold=OutOfFold(records.record_sha256, records.fold, logit, probability, logit > 0).where(order),
    )


def test_the_life_of_a_champion(screening: Command, catalog: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    config = tmp_path / "gate.yaml"
    config.write_text(GATE)
    judged = ("--catalog", catalog, "--config", config)
    for number, bundle in enumerate(bundles, 1):
        code, out, err = screening("register", bundle.path)
        assert code == 0, err
        assert out.startswith(f"tiny version {number}, bundle {bundle.sha256[:12]}\n")
        assert f"screening promote tiny {number} --catalog CATALOG" in out
    code, out, _ = screening("register", bundles[1].path, "--json")
    assert json.loads(out) == {
        "model": "tiny",
        "version": 2,
        "bundle_sha256": bundles[1].sha256,
        "aliases": [],
    }
    code, out, _ = screening("models", "tiny", "--history")
    assert (code, out) == (0, "tiny: no champion yet\n")

    code, out, err = screening("promote", "tiny", 1, *judged, "--by", "anna", "--dry-run")
    assert code == 0, err
    assert "Champion        none yet" in out
    assert "would be promoted (--dry-run: nothing was recorded or moved)" in out
    assert json.loads(screening("models", "tiny", "--history", "--json")[1])["changes"] == []

    code, out, err = screening("promote", "tiny", 1, *judged, "--by", "anna", "--why", "the first")
    assert code == 0, err
    assert out.endswith("Version 1 of tiny is its champion now.\nScreen with it: --model models:/tiny@champion\n")
    assert re.search(
        r"^passed  AUROC \(MI vs all other\) +0\.\d{3}  \(0\.\d{3} to 0\.\d{3}\) +lower end at least 0\.8$", out, re.M
    )
    code, out, err = screening("promote", "tiny", 2, *judged, "--by", "anna")
    assert code == 0, err
    assert "by nested out-of-fold predictions (it has seen 240 of the records)" in out
    assert "Version 2 of tiny is its champion now, after version 1." in out

    code, out, err = screening("promote", "tiny", 3, *judged, "--by", "carl", "--why", "newest")
    assert code == 1
    assert re.search(r"^FAILED  AUROC \(MI vs all other\), minus champion's +-0\.\d{3}", out, re.M)
    [error] = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert error.startswith("Error: version 3 of tiny is not promoted. AUROC (MI vs all other) is 0.")
    assert "AUROC (MI vs all other), candidate minus champion, is -0." in error
    code, out, err = screening("promote", "tiny", 3, *judged, "--json", "--dry-run")
    assert code == 1
    told = json.loads(out)
    assert (told["verdict"]["passed"], told["change"]) == (False, None)

    code, out, _ = screening("models", "--json")
    newest = json.loads(out)[0]
    assert (newest["version"], newest["aliases"]) == (3, [])
    assert [(each["action"], each["by"], each["moved"]) for each in newest["changes"]] == [("refused", "carl", False)]
    assert not [key for key in newest["tags"] if key.startswith("change.")]

    code, out, err = screening("rollback", "tiny", "--why", "misses inferior infarctions", "--by", "ben")
    assert code == 0, err
    assert out == (
        "Version 1 of tiny is its champion again; version 2 is not.\n"
        "To undo: screening rollback tiny --to 2 --why REASON\n"
    )
    code, out, err = screening("rollback", "tiny", "--why", "x")
    assert (code, err) == (1, "Error: version 1 of tiny is its first champion, there is none before it.\n")
    code, out, err = screening("rollback", "tiny", "--to", 2, "--why", "the carts were at fault", "--json")
    assert (json.loads(out)["to_version"], json.loads(out)["moved"]) == (2, True)

    code, out, _ = screening("models", "tiny", "--history")
    assert out.startswith("tiny: version 2 is champion\n")
    assert re.findall(r"UTC  (\S+(?: back)?) +(\S+ -> \d|3(?=, champion remains 2))", out) == [
        ("rolled back", "1 -> 2"),
        ("rolled back", "2 -> 1"),
        ("refused", "3"),
        ("promoted", "1 -> 2"),
        ("promoted", "none -> 1"),
    ]
    assert "    by ben: misses inferior infarctions" in out
    assert re.search(r"    failed: .*auroc_margin \(-0\.\d{3}\)", out)
    told = json.loads(screening("models", "tiny", "--history", "--json")[1])
    assert told["champion"] == 2
    assert [each["full_record"]["by"] for each in told["changes"]][1:] == ["ben", "carl", "anna", "anna"]
    assert told["changes"][2]["full_record"]["verdict"]["evaluation_set"]["folds"] is None
    assert (
        screening("evaluate", "--catalog", catalog, "--model", "models:/tiny@champion", "--out", tmp_path / "e")[0] == 1
    )


def test_the_shipped_model_can_be_the_first(screening: Command) -> None:
    shipped = load_bundle(PRETRAINED)
    code, out, err = screening("register")
    assert code == 0, err
    assert out.startswith(f"{shipped.name} version 1, bundle {shipped.sha256[:12]}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "tiny", "1", "--catalog", "c"], "has no model tiny; `screening models` lists those it has."),
        (["promote", "tiny", "0", "--catalog", "c"], "0 is not in the range x>=1"),
        (["promote", "tiny", "1"], "Missing option '--catalog'"),
        (["promote", "tiny", "1", "--catalog", "c", "--folds", "x"], "write fold numbers with commas between them"),
        (["rollback", "tiny", "--why", "x"], "the registry has no model tiny, so there is nothing to roll back."),
        (["rollback", "tiny"], "Missing option '--why'"),
        (["models", "--history"], "--history is of one model; write screening models NAME --history."),
        (["models", "tiny", "--history"], "the registry has no model tiny, and so no history of it."),
        (["register", "nowhere"], "nowhere/bundle.json is not there or cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(screening: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = screening(*arguments)
    assert (code, out) == (1, "")
    [error] = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert message in error
    assert not (tmp_path / "state" / "mlflow").exists()


def test_a_bound_that_cannot_be_is_named_with_its_line(screening: Command, tmp_path: Path) -> None:
    config = tmp_path / "gate.yaml"
    config.write_text("seed: 1\nauroc_margin: much\n")
    code, _, err = screening("promote", "tiny", 1, "--catalog", "c", "--config", config)
    assert code == 1
    assert re.search(r"^Error: .*gate\.yaml, line 2: auroc_margin: .*valid number.*'much'", err)


def test_a_registry_that_is_down(screening: Command, monkeypatch: pytest.MonkeyPatch, bundles: list[Bundle]) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for arguments in (
        ["promote", "tiny", "1", "--catalog", "c"],
        ["rollback", "tiny", "--why", "x"],
        ["register", bundles[0].path],
        ["models"],
    ):
        code, out, err = screening(*arguments, "--tracking-uri", uri)
        assert (code, out) == (1, "")
        assert err == (
            f"Error: the MLflow registry at {uri} cannot be reached; see that its server runs and that --tracking-uri "
            "names it.\n"
        )
