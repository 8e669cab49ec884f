"""What MLflow is told of runs and reports; a registry that is down costs nothing: it is told the next night."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from screening.errors import UserError
from screening.nightly.book import Book
from screening.report.write import keep_in_mlflow
from screening.storage import Folder
from screening.train.registry import log_screening
from screening.train.tracking import RegistryError


def tell(book: Book, tracking_uri: str, storage_options: dict[str, Any]) -> tuple[int, str | None]:
    """Tell what is yet to be told, strike it out, and return how much is left and, where some is, why.

    Told twice, because a night ended in between, nothing is there twice.
    """
    waiting = dict(book.untold())
    left = len(waiting)
    try:
        for name, facts in waiting.items():
            if name == "report":
                report = {key: facts[key] for key in ("run_id", "parameters", "figures", "tags")}
                keep_in_mlflow(report, Folder(facts["place"], storage_options), tracking_uri=tracking_uri)
            else:
                times = {key: datetime.fromisoformat(facts[key]) for key in ("started_at", "finished_at")}
                log_screening(**{**facts, **times}, tracking_uri=tracking_uri)
            book.told(name)
            left -= 1
    except (RegistryError, UserError) as error:
        return left, f"MLflow is to be told of {left} runs and reports the next night: {error}"
    return 0, None
