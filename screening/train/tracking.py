"""The connection to MLflow, and the reports kept there. Beside ``registry.py`` the only module that knows MLflow.

Only the driver opens it. What MLflow raises becomes one sentence.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.storage import make_folders
from screening.telemetry import send_nothing

EXPERIMENT = "screening"
_PARAMETERS_A_CALL, _METRICS_A_CALL, _PARAMETER_LENGTH = 100, 1000, 6000  # limits of MLflow's REST API


class RegistryError(UserError):
    """The registry cannot be reached, or does not hold what was asked for."""


def log_report(
    run_id: str,
    files: Mapping[str, str | Path],
    *,
    parameters: Mapping[str, Any],
    figures: Mapping[str, float],
    tags: Mapping[str, str],
    tracking_uri: str,
) -> str:
    """Keep a report with the screening run it ends at, and return the id of the MLflow run that holds it.

    Parameters
    ----------
    run_id
        Of the newest screening run that the report covers. Its MLflow run is found by the tag ``screening_run_id``, and made
        where there is none; a later report of the same run replaces the files and adds a step to the figures.
    files
        Path below ``report/`` -> local file. Shareable files only: a worklist has no place in a registry.
    parameters, figures, tags
        Settings; headline figures; what the report was made from.
    """
    with connected(tracking_uri) as client:
        experiment = experiment_id(client, tracking_uri)
        wanted = f"tags.screening_run_id = '{run_id}'"
        found = client.search_runs([experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"])
        run = (
            found[0]
            if found
            else client.create_run(experiment, run_name=f"screening {run_id}", tags={"screening_run_id": run_id})
        )
        for key, value in tags.items():
            client.set_tag(run.info.run_id, key, value)
        known = run.data.params  # MLflow refuses a parameter that changes: the first report's stand, the tags are new
        new = {key: value for key, value in parameters.items() if key not in known}
        steps = int(run.data.tags.get("reports", "0"))
        log_values(client, run, new, [{"epoch": steps, **figures}], {})
        client.set_tag(run.info.run_id, "reports", str(steps + 1))
        for name, path in files.items():
            folder = f"report/{name}".rsplit("/", 1)[0]
            client.log_artifact(run.info.run_id, str(path), folder)
        if run.info.status != "FINISHED":  # else it has the time at which the screening was finished
            client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)


def experiment_id(client: Any, tracking_uri: str) -> str:
    """Return the id of the experiment that everything is kept in, making it where it is not there."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, _artifact_location(tracking_uri))
    )
    return str(found)


def log_values(
    client: Any,
    run: Any,
    parameters: Mapping[str, Any],
    curves: Sequence[Mapping[str, float]],
    figures: Mapping[str, float],
) -> None:
    """Log parameters, metrics of every epoch (``epoch`` is the step) and final figures, within the limits of the API."""
    from mlflow.entities import Metric, Param

    parameters_ = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in sorted(parameters.items())]
    rows = [(key, value, int(row["epoch"])) for row in curves for key, value in row.items() if key != "epoch"]
    rows += [(key, value, 0) for key, value in sorted(figures.items())]
    at = run.info.start_time
    metrics = [Metric(key, float(value), at, step) for key, value, step in rows if math.isfinite(value)]
    for start in range(0, len(parameters_), _PARAMETERS_A_CALL):
        client.log_batch(run.info.run_id, params=parameters_[start : start + _PARAMETERS_A_CALL])
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _METRICS_A_CALL])


@contextmanager
def connected(tracking_uri: str) -> Iterator[Any]:
    """Open a quiet client; what MLflow raises becomes one sentence."""
    send_nothing()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where JSON may go
    with warnings.catch_warnings():
        # MLflow 3.17 uses what SQLAlchemy 2.1 and pydantic deprecate; nothing a user could mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import ConnectionError, RequestException, Timeout
        from sqlalchemy.exc import SQLAlchemyError

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        _make_parent(tracking_uri)
        try:
            yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        except (MlflowException, RequestException) as error:
            first_line = str(error).splitlines()[0]
            if isinstance(error, ConnectionError | Timeout) or "failed with exception" in first_line:
                raise RegistryError(
                    f"the MLflow registry at {public(tracking_uri)} cannot be reached; see that its server runs and that "
                    "--tracking-uri names it."
                ) from None
            raise RegistryError(f"the MLflow registry at {public(tracking_uri)} answers: {first_line}") from None
        except (ImportError, SQLAlchemyError) as error:
            first_line = str(error).splitlines()[0]
            raise RegistryError(
                f"the MLflow registry at {public(tracking_uri)} cannot be used: {first_line}."
            ) from None


def _database(tracking_uri: str) -> Path | None:
    """Return the sqlite file of a tracking URI, None for a server."""
    if not tracking_uri.startswith("sqlite:"):
        return None
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not path.is_absolute():  # relative to the current folder, which workers and jobs change
        raise RegistryError(f"{tracking_uri} is not absolute; write sqlite:////absolute/path/mlflow.db.")
    return path


def store_exists(tracking_uri: str) -> bool:
    """Whether there is a store to look into; of a server that is taken for granted."""
    database = _database(tracking_uri)
    return database is None or database.exists()


def _artifact_location(tracking_uri: str) -> str | None:
    """Return where a store of our own keeps files, absolute; None lets a server decide."""
    database = _database(tracking_uri)
    return str(database.parent / "artifacts") if database else None


def _make_parent(tracking_uri: str) -> None:
    database = _database(tracking_uri)
    if database is not None:
        make_folders(str(database.parent))  # closed to others: MLflow makes files as the umask has it


def public(tracking_uri: str) -> str:
    """Return a URI without the password that it may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "", tracking_uri)
