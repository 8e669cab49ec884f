from __future__ import annotations

import dataclasses
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from screening.model.msaic import MSAICConfig, MSAICNet
from screening.train.augment import Augmentation
from screening.train.fit import EpochReport, FitSettings, fit, predict, score

NETWORK = MSAICConfig(channels=4, dilations=(1, 4), blocks=2, projection_channels=8, embedding=4)
QUICK = FitSettings(
    epochs=3,
    keep="best",
    score_every=1,
    batch_size=8,
    views=2,
    learning_rate=5e-3,
    ema=0.8,
    augmentation=Augmentation(crop_samples=120),
)


def labelled(n: int = 24, *, seed: int = 0) -> SimpleNamespace:
    """Return noise in which an infarction is a deep Q wave every second in the inferior leads."""
    rng = np.random.default_rng(seed)
    target = (np.arange(n) % 3 == 0).astype(np.int8)
    signals = rng.normal(0, 0.05, (n, 12, 200)).astype(np.float32)
    for at in (40, 140):
        signals[:, :, at : at + 4] += 0.8
        signals[target == 1, 1:3, at - 6 : at] -= 0.6
        signals[target == 1, 5, at - 6 : at] -= 0.6
    label = np.where(target == 1, "MI", np.where(np.arange(n) % 3 == 1, "NORM", "other"))
    return SimpleNamespace(signals_mV=signals, target=target, label=label)


def fitted(settings: FitSettings = QUICK, **more: Any) -> Any:
    return fit(labelled(), labelled(12, seed=1), settings, network_config=NETWORK, **more)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_the_result_is_the_best_epoch_s_network() -> None:
    reports: list[EpochReport] = []
    result = fitted(on_epoch=reports.append)
    assert [r.epoch for r in reports] == [0, 1, 2]
    assert [r.metrics() for r in reports] == result.history
    assert result.best_epoch == int(np.argmax([h["tune_score"] for h in result.history]))
    network = MSAICNet(NETWORK)
    network.load_state_dict(result.state_dict)
    tune = labelled(12, seed=1)
    assert score(network, tune)["score"] == result.best_score == max(h["tune_score"] for h in result.history)
    assert roc_auc_score(tune.target, predict(network, tune.signals_mV)) == result.best_score


def test_the_seed_decides_everything_and_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = fitted()
    assert torch.equal(torch.rand(3), expected)
    assert_same(first.state_dict, fitted().state_dict)
    other = fitted(dataclasses.replace(QUICK, seed=1)).state_dict
    assert not torch.equal(first.state_dict["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.parametrize("ema", [0.8, 0.0])
def test_a_resumed_training_ends_as_an_uninterrupted_one(ema: float) -> None:
    settings = dataclasses.replace(QUICK, epochs=4, ema=ema)
    reports: list[EpochReport] = []
    whole = fitted(settings, on_epoch=reports.append)
    for stop in (0, 2):
        stored = io.BytesIO()
        torch.save(reports[stop].state, stored)
        stored.seek(0)
        state = torch.load(stored, weights_only=True)  # no pickled objects in it
        resumed = fitted(settings, resume_from=state)
        assert_same(resumed.state_dict, whole.state_dict)
        assert resumed.history == whole.history
        assert resumed.best_epoch == whole.best_epoch


def test_a_finished_training_resumes_to_the_same_result() -> None:
    reports: list[EpochReport] = []
    whole = fitted(on_epoch=reports.append)
    assert_same(fitted(resume_from=reports[-1].state).state_dict, whole.state_dict)


def test_a_state_of_other_settings_is_refused() -> None:
    reports: list[EpochReport] = []
    fitted(on_epoch=reports.append)
    with pytest.raises(ValueError, match="other settings or another network"):
        fitted(dataclasses.replace(QUICK, learning_rate=1e-4), resume_from=reports[0].state)


def test_reported_states_do_not_change_afterwards() -> None:
    reports: list[EpochReport] = []
    fitted(on_epoch=reports.append)
    first, last = reports[0].state["network"], reports[-1].state["network"]
    assert not torch.equal(first["stem.0.weight"], last["stem.0.weight"])


def test_early_stopping_waits_for_its_patience() -> None:
    settings = dataclasses.replace(QUICK, epochs=30, patience=2, learning_rate=0.0)  # nothing is learnt
    result = fitted(settings)
    assert len(result.history) < 30
    assert len(result.history) - 1 - result.best_epoch == 2


def test_the_last_epoch_may_be_kept_and_then_nothing_stops_early() -> None:
    settings = dataclasses.replace(QUICK, epochs=6, keep="last", patience=1, learning_rate=0.0)
    reports: list[EpochReport] = []
    result = fitted(settings, on_epoch=reports.append)
    assert len(result.history) == 6
    assert (result.best_epoch, result.best_score) == (5, result.history[-1]["tune_score"])
    assert_same(result.state_dict, reports[-1].state["average"])


@pytest.mark.parametrize("keep", ["best", "last"])
def test_epochs_between_are_not_scored_but_the_last_is(keep: Any) -> None:
    reports: list[EpochReport] = []
    result = fitted(dataclasses.replace(QUICK, epochs=5, keep=keep, score_every=2), on_epoch=reports.append)
    assert [report.epoch for report in reports if report.tune] == [1, 3, 4]
    assert ["tune_score" in entry for entry in result.history] == [False, True, False, True, True]
    scores = {report.epoch: report.tune["score"] for report in reports if report.tune}
    assert result.best_epoch == (4 if keep == "last" else max(scores, key=lambda epoch: scores[epoch]))
    assert_same(result.state_dict, reports[result.best_epoch].state["average"])


def test_ranks_stop_together_by_the_score_of_rank_0() -> None:
    settings = dataclasses.replace(QUICK, epochs=30, patience=2, learning_rate=0.0)
    scores: list[float] = []
    first = fitted(settings, world_size=2, agree=lambda own: scores.append(own) or own)
    own: list[float] = []
    told = iter(scores)
    second = fitted(settings, rank=1, world_size=2, agree=lambda mine: own.append(mine) or next(told))
    assert len(first.history) == len(second.history) < 30
    assert [entry["tune_score"] for entry in second.history] == [entry["tune_score"] for entry in first.history]
    assert (second.best_epoch, second.best_score) == (first.best_epoch, first.best_score)
    assert np.isnan(own).all()  # the others do not spend their time on it
    with pytest.raises(ValueError, match="2 ranks must agree on a score"):
        fitted(world_size=2)


def test_eight_records_are_learnt_by_heart() -> None:
    few = labelled(8)
    still = Augmentation(200, 0, 0, 0, 0, 0, 0, 0, 0)
    settings = FitSettings(
        epochs=60,
        batch_size=8,
        learning_rate=2e-2,
        ema=0.0,
        positive_share=None,
        contrast="none",
        augmentation=still,
    )
    config = dataclasses.replace(NETWORK, channels=16, projection_channels=32, dropout=0.0, head_dropout=0.0)
    result = fit(few, few, settings, network_config=config)
    assert result.best_score == 1.0
    assert result.history[-1]["classification_loss"] < 0.02
    assert result.history[-1]["classification_loss"] < 0.2 * result.history[0]["classification_loss"]


def test_what_is_learnt_carries_over_to_new_records() -> None:
    settings = dataclasses.replace(QUICK, epochs=12)
    result = fit(labelled(48), labelled(48, seed=9), settings, network_config=NETWORK)
    assert result.best_score > 0.9


@pytest.mark.parametrize("contrast", ["none", "supcon", "fscl", "supervised_minority", "supervised_prototypes"])
def test_every_contrastive_loss_trains(contrast: Any) -> None:
    history = fitted(dataclasses.replace(QUICK, contrast=contrast, epochs=2)).history
    assert all(np.isfinite(list(entry.values())).all() for entry in history)
    assert (history[0]["contrastive_loss"] == 0) == (contrast == "none")


def test_the_network_may_be_wrapped() -> None:
    calls = []

    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            calls.append(x.shape)
            return self.inner(x)

    wrapped = fitted(wrap=Wrapper)
    assert calls[0] == (16, 12, 120)  # two views of each record
    assert_same(wrapped.state_dict, fitted().state_dict)


def test_a_set_of_one_class_is_refused() -> None:
    one = labelled()
    one.target = np.zeros_like(one.target)
    with pytest.raises(ValueError, match="the tune set needs records of both classes"):
        fit(labelled(), one, QUICK, network_config=NETWORK)


def test_settings_survive_json() -> None:
    settings = FitSettings(epochs=3, augmentation=Augmentation(noise_mV=0.5))
    assert FitSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert FitSettings.from_json({}) == FitSettings()
    with pytest.raises(TypeError, match="epoch_count"):
        FitSettings.from_json({"epoch_count": 3})


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"ema": 1.0}, {"positive_share": 0.0}, {"temperature": 0.0}, {"patience": 5, "keep": "best"}],
)
def test_impossible_settings_are_named(bad: dict[str, Any]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name} cannot be {value}"):
        FitSettings(**bad)


def test_predict_scores_any_number_of_records() -> None:
    network = MSAICNet(NETWORK)
    signals = labelled(10).signals_mV
    whole = predict(network, signals)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(predict(network, signals, batch_size=3), whole, atol=1e-5)
    assert predict(network, signals[:0]).shape == (0,)
