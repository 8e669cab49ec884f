"""Drop and retrain, on records whose infarcts are in V2 alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.contract import LEADS
from screening.errors import UserError
from screening.train.assemble import settings_json
from screening.train.trials import TrialStore
from screening.train.without_leads import GROUPS, agreement, flattened, retrained
from tests.bundles import make_bundle
from tests.train.sets import FIT, SETTINGS, training_set


def test_a_group_becomes_a_flat_line_and_the_others_stay() -> None:
    x = np.random.default_rng(0).normal(0, 0.4, (3, 12, 50)).astype(np.float32)
    x[:, 2], x[:, 3] = x[:, 1] - x[:, 0], -(x[:, 0] + x[:, 1]) / 2
    x[:, 4], x[:, 5] = x[:, 0] - x[:, 1] / 2, x[:, 1] - x[:, 0] / 2
    zeroed = {
        "septal": ("V1", "V2"),
        "lateral": ("I", "V5", "V6"),
        "inferior": ("aVF",),
        "limb": LEADS[:6],
        "precordial": LEADS[6:],
    }
    for group, leads in zeroed.items():
        flat = flattened(x, group)
        assert flat.dtype == np.float32
        assert np.abs(flat[:, [LEADS.index(lead) for lead in leads]]).max() < 1e-6
        kept = [at for at, lead in enumerate(LEADS) if lead.startswith("V") and lead not in leads]
        assert np.array_equal(flat[:, kept], x[:, kept])
        # Einthoven and Goldberger hold on.
        assert flat[:, 2] == pytest.approx(flat[:, 1] - flat[:, 0], abs=1e-6)
        assert flat[:, 3:6].sum(axis=1) == pytest.approx(0, abs=1e-6)
    inferior = flattened(x, "inferior")
    assert np.array_equal(inferior[:, 0], x[:, 0])
    assert inferior[:, 1] == pytest.approx(x[:, 0] / 2, abs=1e-6)


def test_what_is_read_nowhere_else_is_lost_and_kept_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = training_set(120)
    records.signals_mV[:, 7] += 0.02 * records.target[:, None]
    settings = SETTINGS.model_copy(update={"fit": FIT})
    bundle = make_bundle(
        tmp_path / "bundle",
        seen={"trained": list(records.record_sha256)},
        training={"settings": settings_json(settings)},
    )
    told: list[str] = []
    options: dict[str, Any] = {
        "catalog_id": "c",
        "store": (store := TrialStore(tmp_path / "trials")),
        "on_stage": told.append,
    }
    assert retrained(bundle, records, groups=(), **options) == {}
    found = retrained(bundle, records, groups=("septal",), **options)
    assert set(found) == {"septal"}
    assert found["septal"]["auroc"] < 0.8
    assert found["septal"]["lost"] > 0.1
    named = [f"training a network without fold {fold}" for fold in (1, 2, 3)]
    assert told == [line for name in named for line in (name, f"{name}, and without the septal leads")]
    assert len(list(store.folder.glob("*.json"))) == 3

    # Kept: shown without the option, and only what lacks is trained.
    monkeypatch.setattr("screening.train.without_leads.train_network", None)
    assert retrained(bundle, records, groups=(), **options) == found
    min(store.folder.glob("*.json")).unlink()
    assert retrained(bundle, records, groups=(), **options) == {}
    assert json.loads(min(store.folder.glob("*.json")).read_text())["without"] == "septal"


def test_bad_groups_are_told(tmp_path: Path) -> None:
    records = training_set(24)
    make = make_bundle(tmp_path / "bundle")
    options: dict[str, Any] = {"catalog_id": "c", "store": TrialStore(tmp_path / "trials")}
    with pytest.raises(
        UserError, match="--retrain: unknown heart; known are septal, anterior, lateral, inferior, limb, pre"
    ):
        retrained(make, records, groups=("heart",), **options)
    with pytest.raises(UserError, match="the model has seen none of its records"):
        retrained(make, records, groups=("limb",), **options)
    assert retrained(make, records, groups=(), **options) == {}


def test_agreement_is_a_rank_correlation() -> None:
    cohort: dict[str, Any] = {"territory": {"MI vs all other": {}}, "plane": {"MI vs all other": {}}}
    trained = {}
    for at, (group, operator) in enumerate(GROUPS.items()):
        cohort[operator]["MI vs all other"][group] = {"auroc": {"value": at / 10, "low": 0.0, "high": 1.0}}
        trained[group] = {"auroc": 0.9, "lost": at**2 / 100}
    found = agreement(trained, cohort)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert found["groups"]["limb"]["permuted"]["value"] == pytest.approx(0.4)
    two = dict(list(trained.items())[:2])
    assert agreement(two, cohort)["rank_correlation"] is None
    assert agreement({}, cohort) == {"groups": {}, "rank_correlation": None}
