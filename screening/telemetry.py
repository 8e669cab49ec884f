"""What libraries would tell their makers over the network, switched off here and in every process that is started from here."""

from __future__ import annotations

import os

_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",  # consoledonottrack.com: MLflow and others look for it
}


def send_nothing() -> None:
    """Switch telemetry off, unless the user's environment says otherwise, and the loading of pickled models for good.

    Called before Ray or MLflow is imported for use: they look when they are imported or started, and workers inherit it.
    """
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # our own processes never load a pickled model
