"""A store of MLflow for what is submitted."""

from tests.train.conftest import mlflow_template, mlflow_uri

__all__ = ["mlflow_template", "mlflow_uri"]
