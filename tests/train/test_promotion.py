"""How a champion comes, stays and goes: in a store of one's own, and over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from screening.errors import UserError
from screening.model.bundle import Bundle, load_bundle
from screening.model.out_of_fold import OutOfFold
from screening.train import promotion, registry
from screening.train.bounds import GateSettings
from screening.train.gate import Verdict, judge
from screening.train.promotion import (
    CHANGE_TAG,
    Change,
    _line,
    change_record,
    history,
    judge_version,
    promote,
    rollback,
)
from screening.train.registry import RegistryError, champion, register, resolve, versions
from screening.train.tracking import connected
from tests.bundles import make_bundle
from tests.train.sets import training_set

RECORDS = training_set()
SETTINGS = GateSettings(
    auroc_margin=0.05,
    sensitivity_margin=0.1,
    sensitivity_floor=0.3,
    specificity_floor=0.5,
    calibration_slope=(0, 1e6),
    calibration_error=1,
    least_positives=10,
    resamples=100,
)
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make(folder: Path, version: str, noise: float, name: str = "tiny") -> Bundle:
    """Return a bundle that has seen all records and whose out-of-fold predictions are as good as ``noise`` is small."""
    rng = np.random.default_rng(0)
    logit = (2 * RECORDS.target - 1 + noise * rng.normal(0, 1, len(RECORDS))).astype(np.float32)
    order = np.argsort(RECORDS.record_sha256.astype(str))
    stored = OutOfFold(RECORDS.record_sha256, RECORDS.fold, logit, expit(logit.astype(float)), logit > 0).where(order)
    seen = {"trained": RECORDS.record_sha256.tolist(), "tuned": [], "calibrated": []}
    return make_bundle(folder / f"{name}-{version}", name=name, version=version, seen=seen, out_of_fold=stored)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Return two good ones, a bad one, and another good one."""
    folder = tmp_path_factory.mktemp("bundles")
    return [make(folder, version, noise) for version, noise in (("a", 0.8), ("b", 0.7), ("c", 3.0), ("d", 0.75))]


class Life:
    """A registry and what is done there, an hour apart."""

    def __init__(self, uri: str, bundles: list[Bundle], cache: Path) -> None:
        self.uri, self.bundles, self.cache, self.name = uri, bundles, cache, bundles[0].name
        self.at = START
        for bundle in bundles:
            register(bundle, tracking_uri=uri, run_name=bundle.version, parameters={}, figures={}, tags={})

    @property
    def champion(self) -> int | None:
        return champion(self.name, tracking_uri=self.uri)

    def verdict(self, version: int) -> Verdict:
        present = self.champion
        return judge(self.bundles[version - 1], self.bundles[present - 1] if present else None, RECORDS, SETTINGS)

    def promote(self, version: int, verdict: Verdict | None = None, why: str = "better") -> Change:
        self.at += timedelta(hours=1)
        verdict = verdict or self.verdict(version)
        return promote(self.name, version, verdict, by="anna", why=why, at=self.at, tracking_uri=self.uri)

    def rollback(self, to: int | None = None) -> Change:
        self.at += timedelta(hours=1)
        return rollback(
            self.name, to=to, by="ben", why="worse", at=self.at, tracking_uri=self.uri, cache_folder=self.cache
        )

    def history(self) -> list[tuple[str, int | None, int, bool]]:
        changes = history(self.name, tracking_uri=self.uri)
        return [(each.action, each.from_version, each.to_version, each.moved) for each in changes]


@pytest.fixture
def life(mlflow_uri: str, bundles: list[Bundle], tmp_path: Path) -> Life:
    return Life(mlflow_uri, bundles, tmp_path / "cache")


def test_the_life_of_a_champion_on_a_server(mlflow_server: str, tmp_path: Path) -> None:
    own = [make(tmp_path, version, noise, "served") for version, noise in (("a", 0.8), ("b", 0.7), ("c", 3.0))]
    life = Life(mlflow_server, own, tmp_path / "cache")
    with pytest.raises(RegistryError, match="served has no champion; make one with `screening promote served VERSION"):
        resolve("models:/served@champion", tracking_uri=mlflow_server, cache_folder=tmp_path / "cache")
    life.promote(1)
    life.promote(2)
    path = resolve("models:/served@champion", tracking_uri=mlflow_server, cache_folder=tmp_path / "cache")
    assert load_bundle(path).sha256 == own[1].sha256
    refused = life.promote(3)
    assert (refused.action, life.champion) == ("refused", 2)
    assert {"auroc_margin", "sensitivity_margin"} <= set(refused.failed)
    back = life.rollback()
    path = resolve("models:/served@champion", tracking_uri=mlflow_server, cache_folder=tmp_path / "cache")
    assert load_bundle(path).sha256 == own[0].sha256
    assert life.history() == [
        ("promoted", None, 1, True),
        ("promoted", 1, 2, True),
        ("refused", 2, 3, False),
        ("rolled back", 2, 1, True),
    ]
    assert history("served", tracking_uri=mlflow_server)[-1] == back
    record = change_record("served", refused, tracking_uri=mlflow_server)
    assert record["verdict"]["passed"] is False
    with pytest.raises(RegistryError, match="has no version 9 of served; it has 1, 2, 3"):
        registry.find("served", 9, tracking_uri=mlflow_server)


def test_the_record_says_who_when_why_and_on_what(life: Life) -> None:
    life.promote(1, why="the first")
    change = life.promote(2, why="finds more")
    assert change.at == START + timedelta(hours=2)
    record = change_record("tiny", change, tracking_uri=life.uri)
    assert {key: record[key] for key in ("model", "action", "at", "by", "why", "from", "to")} == {
        "model": "tiny",
        "action": "promoted",
        "at": "2026-01-02T05:04:05+00:00",
        "by": "anna",
        "why": "finds more",
        "from": {"version": 1, "bundle_sha256": life.bundles[0].sha256},
        "to": {"version": 2, "bundle_sha256": life.bundles[1].sha256},
    }
    verdict = record["verdict"]
    assert verdict["evaluation_set"]["sha256"] == change.evaluation_set_sha256
    assert verdict["settings"] == SETTINGS.model_dump(mode="json")
    assert {bound["name"]: bound["value"] for bound in verdict["bounds"]} == change.figures
    assert (verdict["candidate"]["judged_by"], verdict["champion"]["records_seen"]) == (
        "nested out-of-fold predictions",
        96,
    )
    assert "Not a medical device" in record["notice"] or "not a medical device" in record["notice"]
    assert history("tiny", tracking_uri=life.uri)[1] == change  # after a trip through the tag


def test_a_changed_record_is_told(life: Life) -> None:
    change = life.promote(1)
    [stored] = Path(life.uri.removeprefix("sqlite:///")).parent.glob(f"artifacts/**/{change.record}")
    stored.write_text(stored.read_text().replace('"by": "anna"', '"by": "eve"'))
    with pytest.raises(RegistryError, match=rf"{change.record} of tiny version 1 differs from its SHA-256"):
        change_record("tiny", change, tracking_uri=life.uri)
    stored.unlink()
    with pytest.raises(RegistryError):
        change_record("tiny", change, tracking_uri=life.uri)


def test_rollbacks_go_back_step_by_step_and_can_be_undone(life: Life) -> None:
    for version in (1, 2, 4):
        assert life.promote(version).action == "promoted"
    assert life.rollback().to_version == 2
    assert life.rollback().to_version == 1  # not 4, which was rolled back
    with pytest.raises(RegistryError, match="version 1 of tiny is its first champion, there is none before it"):
        life.rollback()
    with pytest.raises(RegistryError, match="version 3 of tiny was never its champion; `screening promote tiny 3`"):
        life.rollback(to=3)
    with pytest.raises(RegistryError, match="version 1 of tiny is its champion already"):
        life.rollback(to=1)
    with pytest.raises(RegistryError, match="has no version 9 of tiny; it has 1, 2, 3, 4"):
        life.rollback(to=9)
    assert life.rollback(to=4).from_version == 1
    assert life.rollback().to_version == 1
    assert life.champion == 1


def test_nothing_to_roll_back(life: Life) -> None:
    with pytest.raises(RegistryError, match="^tiny has no champion, so there is nothing to roll back"):
        life.rollback()
    with pytest.raises(RegistryError, match="^the registry has no model nobody, so there is nothing to roll back"):
        rollback("nobody", by="x", why="", at=START, tracking_uri=life.uri, cache_folder=life.cache)
    with pytest.raises(RegistryError, match="has no model nobody, and so no history"):
        history("nobody", tracking_uri=life.uri)


def test_a_rollback_checks_the_files_it_goes_back_to(life: Life) -> None:
    life.promote(1)
    life.promote(2)
    run = registry.find("tiny", 1, tracking_uri=life.uri).run_id
    [weights] = Path(life.uri.removeprefix("sqlite:///")).parent.glob(f"artifacts/{run}/**/model.safetensors")
    weights.write_bytes(b"gone bad")
    with pytest.raises(UserError, match=r"model\.safetensors differs from its SHA-256"):
        life.rollback()
    assert life.champion == 2
    assert len(life.history()) == 2


def test_of_two_that_race_the_later_is_refused(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    life.promote(1)
    verdict = life.verdict(2)
    life.promote(4)
    message = r"the champion of tiny has changed since version 2 was judged \(now version 4\), so nothing was moved"
    with pytest.raises(RegistryError, match=message):
        life.promote(2, verdict)
    assert len(life.history()) == 2  # nothing was written either
    # The other comes between the writing and the moving.
    verdict = life.verdict(2)
    attach = registry.attach

    def meanwhile(*arguments: object, **options: object) -> None:
        attach(*arguments, **options)  # type: ignore[arg-type]
        with connected(life.uri) as client:
            client.set_registered_model_alias("tiny", "champion", "1")

    monkeypatch.setattr(promotion, "attach", meanwhile)
    with pytest.raises(RegistryError, match="has changed meanwhile, from version 4 to version 1, so nothing was moved"):
        life.promote(2, verdict)
    assert life.champion == 1
    assert life.history()[-1] == ("promoted", 4, 2, False)  # written down as what it was: an attempt


@pytest.mark.parametrize("dies_at", ["attach", "tag", "move_champion"])
def test_a_registry_that_goes_down_leaves_the_champion_with_its_record(
    life: Life, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    def down(*_: object, **__: object) -> None:
        raise RegistryError("the registry cannot be reached")

    life.promote(1)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, dies_at, down)
        with pytest.raises(RegistryError, match="cannot be reached"):
            life.promote(2)
    assert life.champion == 1
    assert [entry for entry in life.history() if entry[3]] == [("promoted", None, 1, True)]
    life.promote(2)
    assert life.rollback().to_version == 1


def test_a_process_that_dies_after_the_move_leaves_a_true_history(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, calls = promotion.tag, []

    def dies_second(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        tag(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "tag", dies_second)
        with pytest.raises(KeyboardInterrupt):
            life.promote(1)
    assert life.champion == 1
    assert life.history() == [("promoted", None, 1, True)]
    life.promote(2)
    assert life.history() == [("promoted", None, 1, True), ("promoted", 1, 2, True)]


def test_a_verdict_is_of_one_bundle(life: Life) -> None:
    verdict = life.verdict(1)
    with pytest.raises(ValueError, match="the verdict is of bundle"):
        life.promote(2, verdict)
    with pytest.raises(UserError, match="say who makes the change"):
        promote("tiny", 1, verdict, by=" ", why="", at=START, tracking_uri=life.uri)
    with pytest.raises(RegistryError, match="has no version 5 of tiny"):
        promote("tiny", 5, verdict, by="x", why="", at=START, tracking_uri=life.uri)
    assert life.history() == []


def test_a_version_is_judged_from_registry_and_catalog(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(path: str, preprocessing: object, *, folds: object, storage_options: object) -> object:
        asked.append((path, folds))
        return RECORDS

    opened = SimpleNamespace(catalog_id="c" * 64, label_rule=SimpleNamespace(name="ptbxl-mi"))
    monkeypatch.setattr(promotion, "open_catalog", lambda *_, **__: opened)
    monkeypatch.setattr(promotion, "load_training_set", load)
    life.promote(1)

    def of(version: int) -> Verdict:
        return judge_version(
            "tiny",
            version,
            catalog_path="cat",
            settings=SETTINGS,
            tracking_uri=life.uri,
            cache_folder=life.cache,
            folds=(3, 1),
        )

    verdict = of(2)
    assert verdict.to_json()["bounds"] == life.verdict(2).to_json()["bounds"]
    assert asked == [("cat", (3, 1))]  # once: both want the same preprocessing
    assert (verdict.evaluation_set["catalog_id"], verdict.evaluation_set["folds"]) == ("c" * 64, [1, 3])
    assert not of(3).passed
    with pytest.raises(RegistryError, match="version 1 of tiny is its champion already"):
        of(1)
    with pytest.raises(RegistryError, match="has no version 7 of tiny"):
        of(7)
    assert len(life.history()) == 1


def change(action: str, before: int | None, after: int, *, moved: bool = True) -> Change:
    return Change(action, START, "x", "", before, None, after, "", None, {}, (), moved, "", "")


@pytest.mark.parametrize(
    ("changes", "present", "line"),
    [
        ([], 3, [3]),
        ([("promoted", None, 1), ("promoted", 1, 2)], 2, [1, 2]),
        ([("promoted", None, 1), ("promoted", 1, 2), ("promoted", 2, 1)], 1, [1, 2, 1]),
        ([("promoted", None, 1), ("promoted", 1, 2), ("rolled back", 2, 1), ("promoted", 1, 3)], 3, [1, 3]),
        ([("promoted", None, 1), ("promoted", 1, 2)], 7, [1, 2, 7]),  # another program moved it at the end
        ([("promoted", None, 1), ("promoted", 5, 2)], 2, [1, 5, 2]),  # or in between
        ([("promoted", None, 1), ("promoted", 1, 2)], 1, [1]),
    ],
)
def test_the_line_of_champions(changes: list[tuple[str, int | None, int]], present: int, line: list[int]) -> None:
    assert _line([change(*each) for each in changes], present) == line
    refused = [change("refused", present, 9, moved=False)]
    assert _line([change(*each) for each in changes] + refused, present) == line


def test_tags_of_changes_are_short_and_readable(life: Life) -> None:
    life.promote(1)
    refused = life.promote(3, why="ß " * 900)
    [version] = [each for each in versions(life.uri, "tiny") if each.version == 3]
    [(key, value)] = [(key, value) for key, value in version.tags.items() if key.startswith(CHANGE_TAG)]
    assert key == "change.20260102T050405.000000Z"
    assert json.loads(value)["failed"] == list(refused.failed)
    assert len(value) < 20_000
    with pytest.raises(UserError, match="in at most 2,000 letters"):
        life.promote(3, why="x" * 2001)
