from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from screening.model.bundle import Counts, OperatingCharacteristics
from screening.model.calibration import reliability
from screening.train.card import CardFacts, Cost, Results, choice_in_words, render_card
from screening.train.evaluate import Scored, evaluate
from screening.train.subgroups import KNOWN_FAILURES

RNG = np.random.default_rng(0)
PROBABILITY = RNG.uniform(0, 1, 200)
TARGET = (RNG.uniform(0, 1, 200) < PROBABILITY).astype(int)
LABEL = np.where(TARGET == 1, "MI", np.where(np.arange(200) % 2, "NORM", "other"))


def results(data: str, overall: Counts, **changes: Any) -> Results:
    found = Results(
        characteristics=OperatingCharacteristics(
            data=data,
            reference="label rule made-up",
            overall=overall,
            subgroups={
                "sex": {"female": Counts(TP=4, FN=1, TN=13, FP=2)},
                "site": {"St. X|Y <b>": Counts(TP=5, FN=0, TN=30, FP=0)},
                "infarct (positives only)": {"inferior": Counts(TP=7, FN=3, TN=0, FP=0)},
                KNOWN_FAILURES: {"paced rhythm": Counts(TP=0, FN=0, TN=6, FP=2)},
            },
        ),
        tasks=evaluate(Scored(PROBABILITY, PROBABILITY > 0.5), TARGET, LABEL, np.arange(200).astype(str), resamples=20),
        calibration=reliability(PROBABILITY, TARGET),
    )
    return dataclasses.replace(found, **changes)


FACTS = CardFacts(
    name="tiny",
    version="1",
    data="Made-up archive",
    citation="Nobody et al.",
    label_rule={"name": "made-up", "positive_codes": ["X"]},
    counts={"trained": {"records": 1200, "patients": 1100, "positives": 300}},
    left_out={"flat_lead": 2, "duplicate": 1017},
    how_chosen="By lot.",
    settings={"epochs": 3},
    calibration_prevalence=0.25,
    threshold=0.5,
    threshold_rule="A rule.",
    tuned=results("fold 9", Counts(TP=8, FN=2, TN=27, FP=3)),
    preprocessing={"rate_hz": 100},
    architecture={"kind": "msaic"},
    cost=Cost(parameters=123456, mflop=7.8),
)
NESTED = dataclasses.replace(FACTS, nested=results("folds 1-9, nested", Counts(TP=80, FN=20, TN=270, FP=30)))
CHANGE = {"n": 100, "flagged": 5, "flagged_exchanged": 20, "gained": 16, "lost": 1}


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_a_card_says_what_a_card_must() -> None:
    card = render_card(FACTS)
    for title in (
        "Intended use",
        "Not for",
        "Data",
        "Training and choice",
        "Figures",
        "Calibration",
        "Subgroups",
        "Known failures",
        "Cost",
        "Limits",
        "Ethics",
        "Technical",
    ):
        assert f"\n## {title}\n" in card, title
    assert "no result is a diagnosis" in card
    assert "| duplicate | 1,017 |" in section(card, "Data")
    assert "not scar on magnetic resonance imaging" in section(card, "Data")
    assert "prevalence of 0.250" in card
    assert "123,456 parameters, 7.8 million floating-point operations a record." in card
    assert "records a second" not in card
    assert "![Reliability of the probabilities](calibration.png)" in card
    assert "None" not in card
    assert not re.search(r"\bnan\b", card)


def test_every_row_of_a_table_has_the_cells_of_its_head() -> None:
    facts = dataclasses.replace(
        NESTED, reversal={"arms": {"negatives": {**CHANGE, "noticed": 98}}, "V1": {"negatives": CHANGE}}
    )
    tables = re.findall(r"(?:^\|.*\|$\n?)+", render_card(facts), flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
        assert len(widths) == 1, table


def test_names_of_an_archive_cannot_break_the_table() -> None:
    assert "| site | St. X\\|Y &lt;b> | 35 | 5 | 0 | 30 | 0 |" in render_card(FACTS)


def test_nested_and_tuning_figures_are_told_apart() -> None:
    alone, both = render_card(FACTS), render_card(NESTED)
    assert "Nested cross-validation was not run" in alone
    assert "they flatter it" in section(alone, "Figures")
    assert "which flatters it" in section(alone, "Calibration")
    figures = section(both, "Figures")
    nested, tuned = figures.split("### On the tuning fold")
    assert "folds 1-9, nested" in nested
    assert "| 80 | 20 | 270 | 30 | 0.800 (0.711-0.867) | 0.900 (0.861-0.929) |" in nested
    assert "| 8 | 2 | 27 | 3 | 0.800 (0.490-0.943) |" in tuned
    assert "these figures flatter it" in tuned
    assert "out-of-fold predictions" in section(both, "Calibration")
    assert "| all | | 400 | 80 | 20 | 270 | 30 |" in section(both, "Subgroups")


def test_figures_are_those_of_the_evaluation() -> None:
    card = section(render_card(FACTS), "Figures")
    for task in ("MI vs NORM", "MI vs all other"):
        auroc = FACTS.tuned.tasks[task]["auroc"]
        assert f"{auroc['value']:.3f} ({auroc['low']:.3f}-{auroc['high']:.3f})" in card
    assert "| AUROC | " in card
    assert "| sensitivity at specificity 0.95 | " in card
    assert "| F1 at the threshold | " in card


def test_known_failures_are_shown_or_their_absence_is_told() -> None:
    shown = section(
        render_card(dataclasses.replace(FACTS, reversal={"arms": {"negatives": {**CHANGE, "noticed": 98}}})),
        "Known failures",
    )
    assert "| paced rhythm | 8 | 0 | 0 | 6 | 2 | - | 0.750 (" in shown
    assert re.search(r"\| arms \| negatives \| 100 \| 0\.050 \(.*\) \| 0\.200 \(.*\) \| 16 \| 1 \| 0\.980 \(", shown)
    assert "paced rhythm" not in section(render_card(FACTS), "Subgroups")
    bare = dataclasses.replace(
        FACTS.tuned, characteristics=dataclasses.replace(FACTS.tuned.characteristics, subgroups={})
    )
    told = section(render_card(dataclasses.replace(FACTS, tuned=bare)), "Known failures")
    assert "No statement of what imitates or hides an infarct is on 5 or more" in told
    assert "Exchanged electrodes were not simulated." in told


def test_optional_parts_come_when_they_are_handed_in() -> None:
    assert "Compared with other models" not in render_card(FACTS)
    facts = dataclasses.replace(
        FACTS, comparisons="| a | b |\n|---|---|\n| 1 | 2 |\n", cost=Cost(1, 2.0, 1234.0, "one core of X")
    )
    card = render_card(facts)
    assert "| 1 | 2 |" in section(card, "Compared with other models")
    assert "1,234 records a second on one CPU core (one core of X), the network alone." in card
    one_class = dataclasses.replace(FACTS, tuned=results("x", Counts(1, 1, 0, 0), calibration=None))
    assert "Not measured: one of the two classes is absent." in render_card(one_class)
    other = dataclasses.replace(FACTS, architecture={"kind": "lstm"}, left_out={})
    assert "A network of kind `lstm`" in render_card(other)
    assert "No record of the archive was left out." in render_card(other)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ({}, "The learning rate was 0.002."),
        ({0.002: 0.91, 0.001: 0.9}, "Of the learning rates 0.001 (0.9000), 0.002 (0.9100), 0.002 gave the best AUROC"),
    ],
)
def test_the_choice_in_words(tried: dict[float, float], said: str) -> None:
    words = choice_in_words(
        train_folds=(8, 1, 2, 3, 4, 5, 6, 7),
        tune_folds=(9,),
        rates_tried=tried,
        learning_rate=0.002,
        keep="best",
        best_epoch=11,
        epochs_run=20,
        epochs=24,
    )
    assert words.startswith("Trained on folds 1 to 8. " + said)
    assert "on fold 9 was taken, the 12th." in words
    assert "Of 20 epochs run (at most 24)" in words
