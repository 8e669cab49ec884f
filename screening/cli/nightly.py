"""``screening nightly``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from datetime import date as date_of
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
from screening.job import AtWork, tell_job

if TYPE_CHECKING:
    from screening.archive.identity import PseudonymKey
    from screening.model.bundle import Bundle
    from screening.nightly.health import Finding
    from screening.nightly.night import Ended
    from screening.nightly.notify import NotifySettings
    from screening.nightly.record import Night
    from screening.nightly.settings import NightlySettings
    from screening.run.pipeline import Progress


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
@click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Day that names the night [that of its evening: from noon to noon, UTC].",
)
@click.option("--again", is_flag=True, help="Begin another attempt although the night ended well already.")
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
    again: bool,
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
    from screening.nightly.book import evening_of
    from screening.nightly.night import Around, run_night, tonights_id
    from screening.nightly.settings import NightlySettings
    from screening.settings import load_settings

    settings = load_settings(NightlySettings, path, overrides)
    tonight = evening_of(datetime.now(UTC))
    day = date.date() if date is not None else tonight
    teller = _Teller(settings, tonight)

    def model() -> Bundle:
        uri = tracking_uri or default_tracking_uri(state)
        return load_bundle(model_folder(settings.model, state=state, tracking_uri=uri, storage_options=storage_options))

    if only_id:
        click.echo(tonights_id(settings, model(), day, storage_options, again=again))
        return EXIT_DONE
    with RunProgress(quiet=as_json or is_json()) as progress:

        def update(now: Progress) -> None:
            teller.at_work.heard(now)
            progress.update(now)

        def begun() -> Bundle:
            teller.write_metrics()
            return model()

        around = Around(
            clock=lambda: datetime.now(UTC),
            record=record,
            key=lambda: _key(settings),
            tracking_uri=tracking_uri or default_tracking_uri(state),
            storage_options=storage_options,
            on_stage=stage if is_json() else progress.stage,
            on_progress=update,
            on_event=teller.hear,
            on_end=teller.ended,
        )
        ended = run_night(settings, begun, day, around, again=again)
    if as_json:
        findings = [one.to_json() for one in ended.findings]
        facts = {"id": ended.night_id, "already": ended.already, "findings": findings, **ended.night.to_json()}
        click.echo(json.dumps(facts, indent=1))
    elif ended.already:
        click.echo(_done_already(ended))
    else:
        click.echo(ended.summary, nl=False)
    return exit_code(ended, settings.run.reject_limit)


def _done_already(ended: Ended) -> str:
    night = ended.night
    waiting = f"; {night.waiting:,} records wait for the nights to come" if night.waiting else ""
    return (
        f"The night {ended.night_id} ended well already ({night.outcome.replace('_', ' ')}{waiting}), and nothing was done "
        "now; --again begins another attempt at it."
    )


class _Teller:
    """Tells logs, metrics, the Ray job, and whoever is named in the settings, how the night goes and how it ended."""

    def __init__(self, settings: NightlySettings, tonight: date_of) -> None:
        from screening.run.metrics import Meter

        self._settings, self._tonight = settings, tonight
        self._meter, self._writes = Meter(), False
        self.at_work = AtWork()

    def write_metrics(self) -> None:
        """Write the metrics file from now on; UserError where it cannot be written."""
        from screening.run.metrics import Meter

        self._meter, self._writes = Meter(self._settings.metrics_file), True

    def hear(self, event: str, facts: dict[str, Any]) -> None:
        """Hear an event of a run."""
        self._meter(event, facts)
        self.at_work.hear(event, facts)
        tell(event, facts)

    def ended(self, ended: Ended) -> None:
        """Hear that an attempt ended, or that an earlier one had done the night's work."""
        night = ended.night
        if not self._writes:  # it failed before anything else
            with suppress(UserError):
                self.write_metrics()
        if not ended.already or night.date == str(self._tonight):  # an earlier night's success is no news of today
            found = [(one.kind, one.level) for one in ended.findings]
            self._meter.night(night, found, at=time(), address=self._settings.address)
        counted = ("outcome", "planned", "scored", "rejected", "flagged", "waiting")
        of_it = {name: getattr(night, name) for name in counted}
        # of a run that was begun and is not published; the night's own counts are of those that are
        of_it |= {name if name == "run_id" else f"run_{name}": fact for name, fact in self.at_work.so_far().items()}
        tell_job({"night": ended.night_id, "run_ids": " ".join(night.run_ids), **of_it})
        if ended.already:
            return
        tell("night.ended", {"night": night.date, "outcome": night.outcome, "run_ids": night.run_ids})
        _notify(night, ended.findings, self._settings.notify)


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


def exit_code(ended: Ended, reject_limit: float) -> int:
    """Return what the command ends with."""
    night = ended.night
    if ended.already:
        return EXIT_DONE
    if not night.outcome.success:
        return EXIT_INTERRUPTED
    too_many = night.planned and night.rejected > reject_limit * night.planned
    return EXIT_REJECTS if too_many or ended.findings else EXIT_DONE
