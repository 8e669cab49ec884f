"""``screening run``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from screening.cli import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REJECTS
from screening.cli.log import is_json, log_option, stage, tell
from screening.cli.record import Record, audit_option, logged_url
from screening.cli.state import model_folder, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.errors import UserError
from screening.job import AtWork, tell_job

if TYPE_CHECKING:
    from screening.run.pipeline import Progress, RunOutcome


@click.command("run")
@click.option("--catalog", required=True, help="Catalog made by `screening catalog`.")
@click.option("--out", "runs", required=True, help="Folder of runs, any fsspec URL; the run gets a folder in it.")
@click.option("--packed", help="Pack of the archive, made by `screening pack`: faster, with the same results.")
@click.option("--model", "model_ref", help="Bundle folder or models:/name@alias; default: the bundle that ships.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of run settings.")
@click.option(
    "--attribution", type=click.Choice(["flagged", "all", "none"]), help="Which records to explain [flagged]."
)
@click.option(
    "--operators",
    help="What is exchanged to explain: of lead, independent, territory, plane, wave [lead,territory,wave].",
)
@click.option("--donors", type=int, help="Donors a record at most, for each operator [16].")
@click.option(
    "--attribution-se", type=float, help="No more donors once standard errors are at most this, in logits [0.2]."
)
@click.option("--workers", type=int, help="Scoring workers [one a GPU, or one a CPU core].")
@click.option("--shard-records", type=int, help="Records a results file, for a new run [256 or fewer].")
@click.option("--batch-size", type=int, help="Padded batch of the network [32 on a CPU, 256 on a GPU].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the network runs [auto].")
@click.option("--reject-limit", type=float, help="Share of rejects above which the exit code is 2 [0.2].")
@click.option("--address", help="Ray cluster to use; default: this machine, or the cluster of the Ray job.")
@click.option("--metrics-file", help="File *.prom for the textfile collector of Prometheus' node_exporter.")
@log_option
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def command(
    catalog: str,
    runs: str,
    packed: str | None,
    model_ref: str | None,
    config: Path | None,
    address: str | None,
    metrics_file: str | None,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
    **overrides: Any,
) -> int:
    """Screen every record of a catalog; resumes where it stopped.

    \b
    screening run --catalog catalog --out runs
    screening run --catalog catalog --out s3://bucket/runs --model models:/msaic-mi@champion --workers 8
    """
    from screening.cli.progress import RunProgress
    from screening.run.metrics import Meter
    from screening.run.pipeline import screen
    from screening.settings import RunSettings, load_settings

    settings = load_settings(RunSettings, config, overrides)
    model = model_folder(model_ref, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
    what = {"catalog": logged_url(catalog), "runs": logged_url(runs)}
    meter = Meter(metrics_file)

    at_work = AtWork()

    def hear(event: str, facts: dict[str, Any]) -> None:
        meter(event, facts)
        at_work.hear(event, facts)
        tell(event, facts)

    record("run.started", what | {"model": model_ref})
    try:
        with RunProgress(quiet=as_json or is_json()) as progress:

            def update(now: Progress) -> None:
                at_work.heard(now)
                progress.update(now)

            outcome = screen(
                catalog,
                runs,
                model_path=str(model),
                settings=settings,
                address=address,
                storage_options=storage_options,
                packed=packed,
                on_stage=stage if is_json() else progress.stage,
                on_progress=update,
                on_event=hear,
            )
    except BaseException as error:
        with suppress(UserError):  # what ended the run is the news, not that the disk is too full to note it
            record("run.interrupted", what | {"by": type(error).__name__})
        tell_job({**at_work.so_far(), "published": False})
        raise
    ended = "run.published" if outcome.published and not outcome.already else "run.was_published_before"
    record(
        ended if outcome.published else "run.unfinished",
        what | {"run_id": outcome.run_id, "records": outcome.records, "counts": outcome.counts},
    )
    counts = {name: outcome.counts[name] for name in ("scored", "rejected", "flagged")}
    tell_job({"run_id": outcome.run_id, "records": outcome.records, **counts, "published": outcome.published})
    click.echo(json.dumps(_as_json(outcome), indent=1) if as_json else describe(outcome))
    if not outcome.published:
        return EXIT_INTERRUPTED
    return EXIT_REJECTS if outcome.reject_share > settings.reject_limit else EXIT_DONE


def describe(outcome: RunOutcome) -> str:
    """Return what a person reads at the end of a run."""
    counts = outcome.counts
    lines = []
    if outcome.already:
        lines.append("This run was finished and published before; nothing was left to do.")
    lines += [
        f"{outcome.records:,} records: {counts['scored']:,} scored, {counts['rejected']:,} rejected",
        f"{counts['flagged']:,} flagged, {counts['explained']:,} explained",
    ]
    lines += [f"  rejected {count:>8,}  {reason}" for reason, count in counts["reasons"].items()]
    if outcome.packed or outcome.damaged:
        lines.append(f"{outcome.packed:,} read from the pack")
    if outcome.damaged:
        lines.append(
            f"{outcome.damaged:,} rows of the pack are damaged, and the archive was read; mend it with `screening pack --check`"
        )
    if outcome.published:
        lines.append(f"Published: {outcome.url}  (files in manifest.json; `screening failures` explains rejects)")
    else:
        lines += [f"  unfinished: {why}" for why in outcome.unfinished]
        lines.append(f"Not finished: {outcome.url}. Start the same command again to go on where it stopped.")
    return "\n".join(lines)


def _as_json(outcome: RunOutcome) -> dict[str, Any]:
    return {
        "run_id": outcome.run_id,
        "url": outcome.url,
        "records": outcome.records,
        "published": outcome.published,
        "already": outcome.already,
        "counts": outcome.counts,
        "unfinished": list(outcome.unfinished),
        "packed": outcome.packed,
        "packed_damaged": outcome.damaged,
        "seconds": round(outcome.seconds, 3),
        "seconds_to_first_shard": round(outcome.seconds_to_first_shard, 3),
    }
