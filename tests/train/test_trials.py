from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from screening.errors import UserError
from screening.signal.preprocess import Preprocessing
from screening.train.procedure import Procedure
from screening.train.sweep import run_trials
from screening.train.trials import Split, Trial, TrialResult, TrialStore, out_of_fold, outer_folds, run_trial
from tests.bundles import TINY
from tests.train.sets import FIT, training_set

DATA = training_set()
PROCEDURE = Procedure(TINY, FIT)
TRIAL = Trial(PROCEDURE, Split((1,), (2,), (3,)), Preprocessing())


def test_outer_folds_test_every_fold_once_and_share_nothing() -> None:
    splits = outer_folds((1, 2, 3, 5))
    assert [split.test for split in splits] == [(1,), (2,), (3,), (5,)]
    assert [split.tune for split in splits] == [(2,), (3,), (5,), (1,)]
    for split in splits:
        assert sorted((*split.train, *split.tune, *split.test)) == [1, 2, 3, 5]


def test_results_are_those_of_the_test_folds_and_repeat() -> None:
    result = run_trial(TRIAL, DATA)
    expected = DATA.of_folds((3,))
    assert result.record_sha256.tolist() == expected.record_sha256.tolist()
    assert np.array_equal(result.flagged, result.probability >= result.facts["threshold"])
    again = run_trial(TRIAL, DATA)
    assert np.array_equal(result.logit, again.logit)
    assert result.facts == again.facts


def test_the_test_folds_never_reach_the_training() -> None:
    """Other test records, the same network: whatever stands in the test folds, their own scores alone change."""
    spoilt = training_set()
    test = spoilt.fold == 3
    spoilt.signals_mV[test] = np.random.default_rng(9).normal(0, 5, spoilt.signals_mV[test].shape)
    spoilt.target[test] = 1 - spoilt.target[test]
    one, other = run_trial(TRIAL, DATA), run_trial(TRIAL, spoilt)
    assert one.facts == other.facts
    assert not np.array_equal(one.logit, other.logit)


def test_a_sample_has_its_size_its_prevalence_and_no_patient_twice() -> None:
    patients = np.array([f"p{at // 2}" for at in range(192)], dtype=object)
    data = replace(training_set(192), patient_key=patients)
    train, tune, test = Split((1, 2), (), (3,), sample=40, draw=4).records(data)
    assert len(train) + len(tune) == 40
    assert len(set(train.patient_key) | set(tune.patient_key)) == 40
    assert (train.target.sum() + tune.target.sum()) == pytest.approx(10, abs=3)
    assert set(test.fold) == {3}
    other = Split((1, 2), (), (3,), sample=40, draw=5).records(data)[0]
    assert set(other.record_id) != set(train.record_id)
    with pytest.raises(UserError, match="a sample of 900 records needs as many patients, and the folds hold"):
        Split((1, 2), (), (3,), sample=900).records(data)


def test_bad_splits_are_refused() -> None:
    with pytest.raises(UserError, match=r"the test folds 8 hold 0 positive and 0 negative records"):
        Split((1,), (2,), (8,)).records(DATA)
    with pytest.raises(UserError, match="The training and the test set share 32 patients; choose folds"):
        Split((1,), (2,), (1,)).records(DATA)
    one = replace(DATA, patient_key=np.full(len(DATA), "p0", dtype=object))
    with pytest.raises(UserError, match="share 1 patient;"):
        Split((1,), (2,), (3,)).records(one)


def test_the_key_knows_all_that_decides_a_trial() -> None:
    keys = {
        trial.key(catalog)
        for catalog in ("a", "b")
        for trial in (
            TRIAL,
            replace(TRIAL, split=Split((2,), (1,), (3,))),
            replace(TRIAL, split=Split((1,), (2,), (3,), sample=20)),
            replace(TRIAL, preprocessing=Preprocessing(low_hz=0.3)),
            replace(TRIAL, procedure=replace(PROCEDURE, learning_rates=(1e-3,))),
            replace(TRIAL, procedure=replace(PROCEDURE, fit=replace(FIT, seed=1))),
            replace(TRIAL, procedure=replace(PROCEDURE, network=replace(TINY, channels=8))),
        )
    }
    assert len(keys) == 14


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "trials")
    assert store.read("k") is None
    result = run_trial(TRIAL, DATA)
    store.write("k", result)
    read = store.read("k")
    assert read is not None
    for column in ("record_sha256", "logit", "probability", "flagged"):
        assert np.array_equal(getattr(read, column), getattr(result, column))
    assert read.facts == result.facts
    (tmp_path / "trials/k.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(
        UserError, match=r"k.parquet is no result of a trial \(ArrowInvalid\); remove it to run it again"
    ):
        store.read("k")


def test_a_finished_trial_is_not_run_again_and_a_claimed_one_is_left_to_its_owner(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    other = replace(TRIAL, split=Split((2,), (1,), (3,)))
    ran: list[str] = []
    run_trials([TRIAL], DATA, store, catalog_id="c", on_trial=lambda key, _: ran.append(key))
    with store.claimed(other.key("c")) as mine:
        assert mine
        run_trials([TRIAL, other], DATA, store, catalog_id="c", on_trial=lambda key, _: ran.append(key))
    assert ran == [TRIAL.key("c")]
    run_trials([TRIAL, other], DATA, store, catalog_id="c", on_trial=lambda key, _: ran.append(key))
    assert ran == [TRIAL.key("c"), other.key("c")]


def test_a_dead_owner_lets_go(tmp_path: Path) -> None:
    script = f"""
import os, signal, pathlib
from screening.train.trials import TrialStore
with TrialStore(pathlib.Path({str(tmp_path)!r})).claimed("k") as mine:
    assert mine
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with TrialStore(tmp_path).claimed("k") as mine:
        assert mine


def test_outer_folds_become_one_set_of_predictions() -> None:
    def result(names: list[str], score: float) -> TrialResult:
        n = len(names)
        values = np.full(n, score)
        return TrialResult(np.array(names, dtype=object), values.astype(np.float32), values, values > 0.5, {})

    found = out_of_fold({1: result(["a", "b"], 0.2), 2: result(["c"], 0.9)})
    assert found.record_sha256.tolist() == ["a", "b", "c"]
    assert found.fold.tolist() == [1, 1, 2]
    assert found.flagged.tolist() == [False, False, True]
