"""Where commands keep what outlives them: the MLflow store, fetched bundles, trainings. Only the CLI asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def state_option(function: F) -> F:
    """Add ``--state DIR`` to a command: an absolute Path, also taken from the environment variable SCREENING_STATE."""
    return click.option(
        "--state",
        envvar="SCREENING_STATE",
        show_envvar=True,
        default="~/.local/state/screening",
        show_default=True,
        type=click.Path(file_okay=False),
        callback=lambda _context, _option, value: Path(value).expanduser().absolute(),
        help="Folder for the model registry, fetched models and trainings.",
    )(function)


def tracking_option(function: F) -> F:
    """Add ``--tracking-uri URI`` to a command; None means the store in the state folder."""
    return click.option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        default=None,
        help="MLflow registry: an http(s) URL or sqlite:////absolute/file.db.  [default: in the state folder]",
    )(function)


def model_folder(
    ref: str | None, *, state: Path, tracking_uri: str | None, storage_options: dict[str, Any] | None = None
) -> Path:
    """Return the local folder of the bundle that ``--model REF`` means, fetched into the state folder if need be."""
    from screening.model.locate import resolve_model

    uri = tracking_uri or default_tracking_uri(state)
    return resolve_model(ref, tracking_uri=uri, cache_folder=state / "models", storage_options=storage_options)


def default_tracking_uri(state: Path) -> str:
    """Return the tracking URI of the MLflow store in a state folder."""
    return f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"
