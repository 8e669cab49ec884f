"""``screening study``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from screening.cli.folds import folds_option
from screening.cli.state import state_option
from screening.cli.storage import storage_option


@click.command("study")
@click.option("--catalog", required=True, help="Labelled catalog made by `screening catalog --labels RULE`.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for tables.md and tables.json.")
@click.option("--parts", help="Parts to run, with commas between them [all]; `--parts list` names them.")
@folds_option("Folds to use, e.g. 1,2,3,4,5,6,7,8,9 [all of the catalog].")
@click.option("--workers", type=click.IntRange(0), default=0, help="Trials at a time on Ray; 0: one by one here [0].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where trials run [auto].")
@click.option("--address", help="Ray cluster to use; default: this machine, or the cluster of the Ray job.")
@click.option("--tables-only", is_flag=True, help="Run nothing; make the tables of what is finished.")
@storage_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
def command(
    catalog: str,
    out: Path,
    parts: str | None,
    folds: tuple[int, ...] | None,
    workers: int,
    device: str,
    address: str | None,
    tables_only: bool,
    storage_options: dict[str, Any],
    state: Path,
    as_json: bool,
) -> int:
    """Compare MSAIC-Net with its parts left out and with its peers, on splits of a labelled catalog.

    Every trial is kept in the state folder, so a study that was stopped goes on, and several calls can work off one
    study side by side.

    \b
    screening study --catalog catalog --parts ablation,peers --out study
    screening study --catalog catalog --workers 8 --address auto --out study
    """
    from screening.archive.catalog import open_catalog
    from screening.errors import UserError
    from screening.run.fingerprint import choose_device
    from screening.signal.preprocess import Preprocessing
    from screening.storage import Folder
    from screening.study.parts import PARTS, folds_of
    from screening.study.tables import finished, make_rows, measure_speed, render
    from screening.train.data import TrainingSet, load_training_set
    from screening.train.sweep import run_trials
    from screening.train.trials import Trial, TrialResult, TrialStore

    if parts == "list":
        click.echo("\n".join(PARTS))
        return 0
    names = list(dict.fromkeys(parts.split(","))) if parts else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"--parts: unknown {', '.join(unknown)}; known are {', '.join(PARTS)}")
    opened = open_catalog(catalog, storage_options=storage_options)
    store = TrialStore(state / "trials")
    sections, found = [], {}
    loaded: dict[Preprocessing, TrainingSet] = {}

    def records(preprocessing: Preprocessing) -> TrainingSet:
        if preprocessing not in loaded:
            loaded.clear()  # one at a time: at 500 Hz a thousand records take a quarter of a gigabyte
            loaded[preprocessing] = load_training_set(
                catalog, preprocessing, folds=folds, storage_options=storage_options
            )
        return loaded[preprocessing]

    for name in names:
        part = PARTS[name](folds_of(records(Preprocessing())))
        trials = part.trials()
        keys = {
            trial.key(opened.catalog_id): (model, at) for model, of in trials.items() for at, trial in enumerate(of)
        }

        def told(key: str, result: TrialResult, keys: dict[str, tuple[str, int]] = keys, name: str = name) -> None:
            model, at = keys[key]
            click.echo(
                f"{name}: {model}, split {at + 1}: rate {result.facts['learning_rate']:g}, epoch "
                f"{result.facts['best_epoch'] + 1}, tuning AUROC {result.facts['tune_auroc']:.4f}, "
                f"{result.facts['seconds']:.0f} s",
                err=True,
            )

        by_preprocessing: dict[Preprocessing, list[Trial]] = {}
        for of in trials.values():
            for trial in of:
                by_preprocessing.setdefault(trial.preprocessing, []).append(trial)
        for preprocessing, group in by_preprocessing.items():
            if tables_only or all(store.read(trial.key(opened.catalog_id)) for trial in group):
                continue
            run_trials(
                group,
                records(preprocessing),
                store,
                catalog_id=opened.catalog_id,
                workers=workers,
                address=address,
                device=choose_device(device),
                on_trial=told,
            )
        results = finished(part, store, opened.catalog_id)
        done, total = sum(map(len, results.values())), sum(map(len, trials.values()))
        if done < total:
            click.echo(f"{name}: {done} of {total} trials are finished; models that lack some are left out.", err=True)
        if part.reference not in results:
            continue
        rows = make_rows(part, results, records(Preprocessing()))
        speed = measure_speed(
            {model: (part.models[model].network, part.preprocessing_of(model).samples) for model in results}
        )
        sections.append(render(part, rows, speed))
        found[name] = {"rows": [asdict(row) for row in rows], "records_per_second": speed}
    folder = Folder(str(out))
    folder.write("tables.md", "\n".join(sections).encode())
    folder.write(
        "tables.json", (json.dumps({"catalog_id": opened.catalog_id, "parts": found}, indent=1) + "\n").encode()
    )
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(sections))
    if not as_json:
        click.echo(f"Written: {out / 'tables.md'}, {out / 'tables.json'}")
    return 0
