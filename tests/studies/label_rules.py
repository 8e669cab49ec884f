"""Which statements of infarction a network should learn from: all, without injury, or the likelier ones alone.

    python -m tests.studies.label_rules ARCHIVE --state FOLDER

Trains under each rule on the splits of the design study (its short schedule, one learning rate) and measures every
network on the labels of the rule that ships (ptbxl-mi: every statement of the superclass MI), so that what differs is
what was learnt and not what was asked. Printed are the figures of each rule and the paired differences from ptbxl-mi.
Trials are kept in the state folder: started again, it goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from screening.archive.build import build_catalog
from screening.archive.labels import PRESETS, PTBXL_MI
from screening.signal.preprocess import Preprocessing
from screening.study.models import DESIGN, REFERENCE
from screening.study.parts import folds_of, thirds
from screening.train.data import TrainingSet, load_training_set
from screening.train.evaluate import Scored, compare, evaluate
from screening.train.sweep import run_trials
from screening.train.trials import Trial, TrialStore

RULES = {
    "ptbxl-mi": PTBXL_MI,
    "ptbxl-mi-no-injury": PRESETS["ptbxl-mi-no-injury"],
    "likelihood >= 50% or unknown": PTBXL_MI.model_copy(update={"name": "likely", "min_likelihood": 50.0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    store = TrialStore(arguments.state / "trials")
    scores: dict[str, dict[str, tuple[float, bool, int]]] = {}
    asked: TrainingSet | None = None
    for name, rule in RULES.items():
        with tempfile.TemporaryDirectory() as folder:
            build_catalog(arguments.archive, folder, labels=rule, deidentified=True)
            data = load_training_set(folder, Preprocessing())
        asked = data if asked is None else asked
        # Named by the rule: a catalog's own id would be another one in each temporary folder.
        catalog_id = f"label rule {name}"
        trials = [Trial(DESIGN[REFERENCE], split, Preprocessing()) for split in thirds(folds_of(data))]
        print(f"{name}: {data.counts()}", flush=True)
        run_trials(trials, data, store, catalog_id=catalog_id)
        scores[name] = {}
        for part, trial in enumerate(trials):
            result = store.read(trial.key(catalog_id))
            assert result is not None, "another process has this trial in hand"
            for sha256, p, flagged in zip(result.record_sha256, result.probability, result.flagged, strict=True):
                scores[name][sha256] = (float(p), bool(flagged), part)
    assert asked is not None
    common = np.array([all(sha256 in of for of in scores.values()) for sha256 in asked.record_sha256])
    records = asked.where(common)
    scored = {}
    for name, of in scores.items():
        values = [of[sha256] for sha256 in records.record_sha256]
        scored[name] = Scored(*(np.array(column) for column in zip(*values, strict=True)))
    columns = records.target, records.label, records.patient_key
    for name, of_rule in scored.items():
        figures = evaluate(of_rule, *columns)
        against = None if name == "ptbxl-mi" else compare(of_rule, scored["ptbxl-mi"], *columns)
        for task, found in figures.items():
            for measure in ("auroc", "auprc"):
                one = found[measure]
                line = f"{name:<30} {task:<16} {measure:<6} {one['value']:.3f} ({one['low']:.3f}-{one['high']:.3f})"
                if against:
                    other = against[task][measure]
                    line += f"  minus ptbxl-mi {other['value']:+.3f} ({other['low']:+.3f} to {other['high']:+.3f})"
                print(line)


if __name__ == "__main__":
    main()
