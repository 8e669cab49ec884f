"""A real MLflow store for every test that asks: the schema is made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty sqlite store of MLflow. Read only."""
    from screening.train.registry import _mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with _mlflow(f"sqlite:///{path}") as client:
        client.search_experiments()
    return path


@pytest.fixture
def mlflow_uri(mlflow_template: Path, tmp_path: Path) -> str:
    """Return the tracking URI of a store of one's own."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"
