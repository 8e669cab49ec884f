"""``screening audit-explanations``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from screening.cli.state import model_folder, state_option, tracking_option
from screening.cli.storage import storage_option


@click.command("audit-explanations")
@click.option("--catalog", required=True, help="Labelled catalog made by `screening catalog --labels RULE`.")
@click.option("--model", "model_ref", help="Bundle folder or models:/name@alias; default: the bundle that ships.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for explanations.md, .json and the pictures."
)
@click.option(
    "--records", "limit", type=click.IntRange(min=2), help="Flagged infarcts to explain, a random sample [all]."
)
@click.option("--donors", type=click.IntRange(4, 128), default=16, help="Donors a record [16].")
@click.option("--repeats", type=click.IntRange(1, 20), default=1, help="Permutations of the whole cohort [1].")
@click.option(
    "--retrain",
    help="Groups of leads to retrain without, with commas between them, or `all` [none]; a training a group and network.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of donors, shuffles and resamples [0].")
@click.option(
    "--bundle", "destination", type=click.Path(path_type=Path), help="Write the bundle here, with this in its card."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where networks run [auto].")
@storage_option
@state_option
@tracking_option
@click.option("--json", "as_json", is_flag=True, help="Print the audit as JSON.")
def command(
    catalog: str,
    model_ref: str | None,
    out: Path,
    limit: int | None,
    donors: int,
    repeats: int,
    retrain: str | None,
    seed: int,
    destination: Path | None,
    device: str,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    """Check whether a model's explanations are where the infarct is stated, and say what the network reads.

    Records that the model has seen are explained by networks trained without them: those of its nested cross-validation where
    they are in the state folder, else new ones, which are kept there.

    \b
    screening audit-explanations --catalog catalog --out audit
    screening audit-explanations --catalog catalog --out audit --retrain all --bundle bundle-explained
    """
    from screening.archive.catalog import open_catalog
    from screening.errors import UserError
    from screening.model.bundle import CARD, load_bundle
    from screening.model.bundle_writer import amend_card
    from screening.run.fingerprint import choose_device
    from screening.train.data import load_training_set
    from screening.train.explanation_figures import draw
    from screening.train.explanation_tables import amended, headline, render
    from screening.train.explanations import Settings, audit_explanations
    from screening.train.gradients import need_captum
    from screening.train.trials import TrialStore
    from screening.train.without_leads import GROUPS

    groups = tuple(GROUPS) if retrain == "all" else tuple(dict.fromkeys(retrain.split(","))) if retrain else ()
    if unknown := [group for group in groups if group not in GROUPS]:
        raise UserError(f"--retrain: unknown {', '.join(unknown)}; known are {', '.join(GROUPS)}, or all.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name another one.")
    if destination is not None and destination.exists():
        raise UserError(f"{destination} exists already; name another folder for the bundle.")
    need_captum()
    bundle = load_bundle(
        model_folder(model_ref, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
    )
    opened = open_catalog(catalog, storage_options=storage_options)
    records = load_training_set(catalog, bundle.preprocessing, storage_options=storage_options)
    found = audit_explanations(
        bundle,
        records,
        catalog={"catalog_id": opened.catalog_id, "label_rule": opened.label_rule.name},
        store=TrialStore(state / "trials"),
        settings=Settings(records=limit, donors=donors, repeats=repeats, retrain=groups, seed=seed),
        device=choose_device(device),
        on_stage=lambda what: click.echo(f"{what} ...", err=True),
    )
    section, pictures = render(found), draw(found)
    out.mkdir(parents=True, exist_ok=True)
    (out / "explanations.md").write_text(section, encoding="utf-8")
    (out / "explanations.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name, png in pictures.items():
        (out / name).write_bytes(png)
    if destination is not None:
        card = (bundle.path / CARD).read_text(encoding="utf-8")
        written = amend_card(bundle, destination, card=amended(card, section), pictures=pictures)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return 0
    click.echo(f"{bundle.name} {bundle.version}: {headline(found)}")
    click.echo(f"Written: {', '.join(str(out / name) for name in ('explanations.md', 'explanations.json', *pictures))}")
    if destination is not None:
        click.echo(f"Bundle with this in its card: {destination} ({written.sha256[:12]})")
    return 0
