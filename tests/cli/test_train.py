"""``screening train``, ``evaluate`` and ``models`` on a simulated archive, as a user types them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.cli import main
from screening.model.bundle import load_bundle

CONFIG = """\
name: tiny
train_folds: [1, 2, 3, 4, 5, 6]
tune_folds: [7, 8, 9]
resamples: 20
network: {channels: 8, dilations: [1, 4], blocks: 1, projection_channels: 16, embedding: 8}
fit:
  epochs: 8
  score_every: 1
  batch_size: 16
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def screening(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Return a function that runs a command with a state folder of its own: exit code, output, errors."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        state = [] if command in ("simulate", "catalog") else ["--state", str(tmp_path / "state")]
        with pytest.raises(SystemExit) as ended:
            main([command, *map(str, arguments), *state])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a labelled catalog of 320 simulated ECGs."""
    folder = tmp_path_factory.mktemp("archive")
    for command in (
        ["simulate", folder / "archive", "--records", 320, "--prevalence", 0.4, "--seed", 1],
        ["catalog", folder / "archive", "--out", folder / "catalog", "--labels", "ptbxl-mi", "--deidentified"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in command])
        assert ended.value.code == 0
    return folder / "catalog"


def test_train_models_evaluate(screening: Command, catalog: Path, tmp_path: Path) -> None:
    code, out, _ = screening("models")
    assert (code, out) == (
        0,
        "No model is registered yet; `screening train` registers what it trains, `screening register` the shipped "
        "model. Runs use the shipped model.\n",
    )
    config = tmp_path / "train.yaml"
    config.write_text(CONFIG)
    bundle_folder = tmp_path / "bundle"
    train = ("train", "--catalog", catalog, "--config", config, "--out", bundle_folder)
    code, out, err = screening(*train)
    assert code == 0, err
    bundle = load_bundle(bundle_folder)
    assert f"tiny version 1, bundle {bundle.sha256[:12]} in {bundle_folder}" in out
    assert re.search(r"epoch +2  loss [\d.]+  AUROC [\d.]+", err)
    assert bundle.training["records"]["trained"] + bundle.training["records"]["tuned"] > 200
    infarcts = bundle.operating_characteristics.subgroups["infarct (positives only)"]
    assert {"anterior", "inferior"} <= set(infarcts)

    code, out, err = screening(*train, "--json")
    assert code == 0, err
    again = json.loads(out)
    assert (again["already"], again["version"], again["bundle_sha256"]) == (True, 1, bundle.sha256)

    code, out, _ = screening("models", "--json")
    [listed] = json.loads(out)
    assert (listed["name"], listed["aliases"], listed["bundle_sha256"]) == ("tiny", [], bundle.sha256)
    code, out, _ = screening("models")
    assert re.search(rf"tiny +1 +{bundle.sha256[:12]}  0\.\d{{4}}", out)

    evaluate = ("evaluate", "--catalog", catalog, "--model", "models:/tiny/1", "--out", tmp_path / "evaluation")
    code, out, err = screening(*evaluate, "--folds", "7,8,9")
    assert code == 1
    assert re.search(
        r"Error: model tiny \w+ was made from some of these \d+ records \(\d+ tuned, \d+ calibrated\)", err
    )
    assert "--allow-seen" in err
    assert not (tmp_path / "evaluation").exists()

    code, out, err = screening(*evaluate, "--folds", "7,8,9", "--allow-seen")
    assert code == 0, err
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    # The same records through another path: read anew, scored by the fetched bundle.
    stated = bundle.operating_characteristics
    assert found["tasks"]["MI vs all other"]["auroc"]["value"] == pytest.approx(
        stated.figures["MI vs all other: auroc"]["value"]
    )
    assert found["counts_one_ecg_a_patient"]["overall"] == {
        "TP": stated.overall.TP,
        "FN": stated.overall.FN,
        "TN": stated.overall.TN,
        "FP": stated.overall.FP,
    }
    assert found["model"]["bundle_sha256"] == bundle.sha256
    assert "the figures flatter it" in out

    code, out, err = screening(*evaluate, "--folds", "10", "--json")
    assert code == 0, err
    assert json.loads(out)["allow_seen"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--catalog", "nowhere"], r"^Error: .*nowhere"),
        (["--catalog", "nowhere", "--workers", "-1"], r"^Error: --workers: .*greater than or equal to 0"),
        (["--catalog", "nowhere", "--config", "absent.yaml"], r"^Error: .*absent\.yaml"),
        (["--catalog", "nowhere", "--name", "a/b"], r"^Error: --name: "),
    ],
)
def test_bad_input_is_one_sentence(screening: Command, arguments: list[str], message: str) -> None:
    code, out, err = screening("train", *arguments)
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert len(err.strip().splitlines()) == 1


def test_a_bad_key_is_named_with_its_line(screening: Command, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(CONFIG.replace("batch_size", "batchsize"))
    code, _, err = screening("train", "--catalog", "x", "--config", config)
    assert code == 1
    assert "train.yaml, line 9: fit.batchsize: unexpected keyword argument" in err


@pytest.mark.parametrize("folds", ["nine", "1;2", "1,,2"])
def test_bad_folds_are_told(screening: Command, tmp_path: Path, folds: str) -> None:
    code, _, err = screening("evaluate", "--catalog", "x", "--folds", folds, "--out", tmp_path / "out")
    assert code == 1
    assert "write fold numbers with commas between them" in err


@pytest.mark.parametrize("command", ["train", "evaluate", "models"])
def test_help_shows_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert out.count(f"\n  screening {command}") == 2
