"""``screening nightly``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import click

from screening.cli import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REJECTS
from screening.cli.log import is_json, log_option, stage, tell
from screening.cli.progress import RunProgress
from screening.cli.record import Record, audit_option
from screening.cli.state import default_tracking_uri, model_folder, state_option, tracking_option
from screening.cli.storage import storage_option
from screening.errors import UserError
from screening.job import tell_job

if TYPE_CHECKING:
    from screening.archive.identity import PseudonymKey
    from screening.nightly.health import Finding
    from screening.nightly.night import Ended
    from screening.nightly.notify import NotifySettings
    from screening.nightly.record import Night
    from screening.nightly.settings import NightlySettings


@click.command("nightly")
@click.option("--settings", "path", type=click.Path(dir_okay=False, path_type=Path), help="YAML file of settings.")
@click.option("--archive", help="Archive to scan first; without it the catalog is taken as it is.")
@click.option("--catalog", help="Folder of the catalog, made or renewed.")
@click.option("--runs", help="Folder of runs; nights are kept in `nights` in it.")
@click.option("--report", help="Folder of the report, which each night replaces.")
@click.option("--packed", help="Pack of the archive, renewed and read in its place.")
@click.option("--model", help="Who scores: bundle folder or models:/name@alias [models:/msaic-mi@champion].")
@click.option(
    "--rescore",
    type=click.Choice(["never", "older"]),
    help="older: also what another version has scored, after all that is new [never].",
)
@click.option("--max-records", type=int, help="Records to begin in one night, newest first; the rest waits.")
@click.option("--max-hours", type=float, help="Hours of one night for screening, newest first; the rest waits.")
@click.option("--keep-nights", type=int, help="Remove runs of earlier nights once no row of theirs counts.")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Day that names the night [today, UTC].")
@click.option("--address", help="Ray cluster to use; default: this machine, or the cluster of the Ray job.")
@click.option("--worklist/--no-worklist", default=None, help="Write the private list of flagged patients too.")
@click.option("--mlflow/--no-mlflow", default=None, help="Tell MLflow of runs and reports.")
@click.option("--metrics-file", help="File *.prom for the textfile collector of Prometheus' node_exporter.")
@click.option("--id", "only_id", is_flag=True, help="Print the id of tonight's attempt, for `ray job submit`, and end.")
@log_option
@storage_option
@state_option
@tracking_option
@audit_option
@click.option("--json", "as_json", is_flag=True, help="Print the record of the night as JSON.")
def command(
    path: Path | None,
    date: datetime | None,
    only_id: bool,
    storage_options: dict[str, Any],
    state: Path,
    tracking_uri: str | None,
    as_json: bool,
    record: Record,
    **overrides: Any,
) -> int:
    """Screen what is new in an archive, report, and say what became of it; safe to start twice.

    \b
    screening nightly --settings nightly.yaml
    screening nightly --archive /data/ecg --catalog catalog --runs runs --report report --max-hours 6

    Exit codes: 0 all well (or nothing to do), 1 failed, 2 done, but something is to be looked at, 3 unfinished: start it
    again, or let the next night go on with it.
    """
    from screening.model.bundle import load_bundle
    from screening.nightly.health import judge
    from screening.nightly.night import Around, run_night, tonights_id
    from screening.nightly.record import Night, Outcome
    from screening.nightly.settings import NightlySettings
    from screening.run.metrics import Meter
    from screening.settings import load_settings

    settings = load_settings(NightlySettings, path, overrides)
    day = (date or datetime.now(UTC)).date()
    meter = Meter(settings.metrics_file)

    def hear(event: str, facts: dict[str, Any]) -> None:
        meter(event, facts)
        tell(event, facts)

    def ended_as(night: Night, findings: Sequence[Finding]) -> None:
        tell("night.ended", {"night": night.date, "outcome": night.outcome, "run_ids": night.run_ids})
        meter.night(night, [(one.kind, one.level) for one in findings], at=time())
        _notify(night, findings, settings.notify)

    begun = datetime.now(UTC)
    try:
        model = model_folder(settings.model, state=state, tracking_uri=tracking_uri, storage_options=storage_options)
        bundle = load_bundle(model)
    except UserError as error:  # a registry that is down, before anything was begun: somebody is to know in the morning
        if not only_id:
            at = [moment.isoformat(timespec="seconds") for moment in (begun, datetime.now(UTC))]
            night = Night(date=str(day), outcome=Outcome.FAILED, started_at=at[0], finished_at=at[1], error=str(error))
            ended_as(night, judge(night, [], settings.health))
        raise
    if only_id:
        click.echo(tonights_id(settings, bundle, day, storage_options))
        return EXIT_DONE
    with RunProgress(quiet=as_json or is_json()) as progress:
        around = Around(
            clock=lambda: datetime.now(UTC),
            record=record,
            key=_key(settings),
            tracking_uri=tracking_uri or default_tracking_uri(state),
            storage_options=storage_options,
            on_stage=stage if is_json() else progress.stage,
            on_progress=progress.update,
            on_event=hear,
            on_end=ended_as,
        )
        ended = run_night(settings, bundle, day, around)
    of_it = {
        name: getattr(ended.night, name) for name in ("outcome", "planned", "scored", "rejected", "flagged", "waiting")
    }
    tell_job({"night": ended.night_id, "run_ids": " ".join(ended.night.run_ids), **of_it})
    if as_json:
        findings = [one.to_json() for one in ended.findings]
        facts = {"id": ended.night_id, "already": ended.already, "findings": findings, **ended.night.to_json()}
        click.echo(json.dumps(facts, indent=1))
    elif ended.already:
        click.echo(f"The night {ended.night_id} is done already ({ended.night.outcome}); nothing was left to do.")
    else:
        click.echo(ended.summary, nl=False)
    return _exit_code(ended, settings.run.reject_limit)


def _key(settings: NightlySettings) -> PseudonymKey | None:
    """Return the key that the scan of the archive needs; a public archive needs none."""
    from screening.archive.identity import load_key

    if settings.archive is None or (settings.deidentified and settings.key_file is None):
        return None
    key, note = load_key(settings.key_file, os.environ.get("SCREENING_PSEUDONYM_KEY"))
    if note:
        click.echo(note, err=True)
    return key


def _notify(night: Night, findings: Sequence[Finding], settings: NotifySettings) -> None:
    """Tell whoever is to be told; one that cannot be told is said, and changes nothing."""
    from screening.nightly.notify import is_told, notify, payload, secret_of

    if not is_told(night, findings, settings):
        return
    try:
        failed = notify(payload(night, findings), settings, secret=secret_of(settings, os.environ))
    except UserError as error:
        failed = [str(error)]
    for sentence in failed:
        tell("notify.failed", {"what": sentence})
        if not is_json():
            click.echo(f"Note: {sentence}", err=True)


def _exit_code(ended: Ended, reject_limit: float) -> int:
    night = ended.night
    if ended.already:
        return EXIT_DONE
    if not night.outcome.success:
        return EXIT_INTERRUPTED
    too_many = night.planned and night.rejected > reject_limit * night.planned
    return EXIT_REJECTS if too_many or ended.findings else EXIT_DONE
