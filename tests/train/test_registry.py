"""The registry against a real MLflow: a sqlite store, and a server over HTTP."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from screening.model.bundle import MANIFEST, Bundle, BundleError, load_bundle
from screening.model.locate import resolve_model
from screening.train.registry import (
    RegistryError,
    champion,
    find,
    move_champion,
    register,
    resolve,
    versions,
)
from screening.train.tracking import connected, log_report
from tests.bundles import make_bundle

CURVES = [{"epoch": 0, "loss": 1.0, "tune_auroc": 0.7}, {"epoch": 1, "loss": 0.5, "tune_auroc": 0.9}]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one"), make_bundle(folder / "two", version="2", threshold=0.4)


def add(bundle: Bundle, uri: str) -> int:
    return register(
        bundle,
        tracking_uri=uri,
        run_name=f"tiny-{bundle.version}",
        parameters={"fit.epochs": 2, **{f"extra.{at}": at for at in range(120)}},
        curves=CURVES,
        figures={"auroc": 0.91, "auroc_low": float("nan")},
        tags={"catalog_id": "abc"},
    ).version


def test_versions_aliases_and_what_was_logged(bundles: tuple[Bundle, Bundle], mlflow_uri: str) -> None:
    assert versions(mlflow_uri) == []
    assert [add(bundle, mlflow_uri) for bundle in bundles] == [1, 2]
    newest, first = versions(mlflow_uri)
    assert (first.version, first.aliases, first.bundle_sha256) == (1, (), bundles[0].sha256)  # no champion by itself
    assert (newest.version, newest.aliases, newest.bundle_sha256) == (2, (), bundles[1].sha256)
    assert first.input_contract_sha256 == bundles[0].input_contract_sha256
    assert first.tags["catalog_id"] == "abc"
    assert first.figures["auroc"] == 0.91
    assert "auroc_low" not in first.figures  # NaN is no figure
    with connected(mlflow_uri) as client:
        run = client.get_run(first.run_id)
        assert run.info.status == "FINISHED"
        assert (run.data.params["fit.epochs"], len(run.data.params)) == ("2", 121)
        history = client.get_metric_history(first.run_id, "tune_auroc")
        assert [(metric.step, metric.value) for metric in history] == [(0, 0.7), (1, 0.9)]
        # Absolute, and beside the database: nothing in the current folder.
        assert run.info.artifact_uri.startswith(f"{Path(mlflow_uri.removeprefix('sqlite:///')).parent}/artifacts/")
    assert versions(mlflow_uri, "other") == []


def test_a_bundle_is_registered_once(bundles: tuple[Bundle, Bundle], mlflow_uri: str) -> None:
    assert [add(bundles[0], mlflow_uri) for _ in range(2)] == [1, 1]


def test_a_failed_registration_leaves_no_version(
    bundles: tuple[Bundle, Bundle], mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import requests
    from mlflow import MlflowClient

    def fails(*_: object, **__: object) -> None:
        raise OSError("disk full")

    def half(self: MlflowClient, run_id: str, local_dir: str, artifact_path: str) -> None:
        self.log_artifact(run_id, str(Path(local_dir) / MANIFEST), artifact_path)
        raise requests.ConnectionError("the server went away")

    # What fails -> what is told. The last: the versions' own table, after all files are there.
    for method, replacement, error, message in (
        ("log_artifacts", fails, OSError, "disk full"),
        ("log_artifacts", half, RegistryError, "cannot be reached; see that its server runs"),
        ("log_batch", fails, OSError, "disk full"),
        ("create_model_version", fails, OSError, "disk full"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, replacement)
            with pytest.raises(error, match=message):
                add(bundles[0], mlflow_uri)
        assert versions(mlflow_uri) == []
    with monkeypatch.context() as patch:  # even the run cannot be marked: the first cause is what is told
        patch.setattr(MlflowClient, "log_artifacts", fails)
        patch.setattr(MlflowClient, "set_terminated", half)
        with pytest.raises(OSError, match="disk full"):
            add(bundles[0], mlflow_uri)
    with connected(mlflow_uri) as client:
        experiment = client.get_experiment_by_name("screening").experiment_id
        assert [run.info.status for run in client.search_runs([experiment])] == ["RUNNING", *["FAILED"] * 4]
    assert add(bundles[0], mlflow_uri) == 1
    path = resolve("models:/tiny/1", tracking_uri=mlflow_uri, cache_folder=tmp_path / "cache")
    assert load_bundle(path).sha256 == bundles[0].sha256


def test_a_reference_becomes_a_verified_folder(bundles: tuple[Bundle, Bundle], mlflow_uri: str, tmp_path: Path) -> None:
    for bundle in bundles:
        add(bundle, mlflow_uri)
    move_champion("tiny", 1, expected=None, tracking_uri=mlflow_uri)
    cache = tmp_path / "cache"
    for ref, bundle in {"models:/tiny@champion": bundles[0], "models:/tiny/2": bundles[1]}.items():
        path = resolve_model(ref, tracking_uri=mlflow_uri, cache_folder=cache)
        assert path == cache / bundle.sha256
        assert load_bundle(path).sha256 == bundle.sha256
    # Fetched once: with the store's files gone, the cache still answers.
    shutil.rmtree(Path(mlflow_uri.removeprefix("sqlite:///")).parent / "artifacts")
    assert resolve("models:/tiny/2", tracking_uri=mlflow_uri, cache_folder=cache) == path


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("models:/tiny", r"models:/tiny is no model reference; write models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/tiny/latest", "is no model reference"),
        ("models:/tiny/../3", "is no model reference"),
        (
            "models:/tiny@champion",
            "tiny has no champion; make one with `screening promote tiny VERSION --catalog CATALOG`",
        ),
        ("models:/tiny@gone", r"models:/tiny@gone means no version: the aliases of tiny are none\.$"),
        ("models:/tiny/7", r"the MLflow registry at sqlite:.* has no version 7 of tiny; it has 1\.$"),
        ("models:/nobody@champion", r"has no model nobody; `screening models` lists those it has\.$"),
        ("models:/nobody/1", r"has no model nobody"),
    ],
)
def test_a_reference_to_nothing_is_one_sentence(
    bundles: tuple[Bundle, Bundle], mlflow_uri: str, tmp_path: Path, ref: str, message: str
) -> None:
    add(bundles[0], mlflow_uri)
    with pytest.raises(RegistryError, match=message) as caught:
        resolve(ref, tracking_uri=mlflow_uri, cache_folder=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_the_champion_moves_only_from_where_it_was_thought_to_be(
    bundles: tuple[Bundle, Bundle], mlflow_uri: str
) -> None:
    for bundle in bundles:
        add(bundle, mlflow_uri)
    assert champion("tiny", tracking_uri=mlflow_uri) is None
    move_champion("tiny", 2, expected=None, tracking_uri=mlflow_uri)
    message = "champion of tiny has changed meanwhile, from none to version 2, so nothing was moved; judge again"
    with pytest.raises(RegistryError, match=message):
        move_champion("tiny", 1, expected=None, tracking_uri=mlflow_uri)
    assert champion("tiny", tracking_uri=mlflow_uri) == 2
    assert find("tiny", 2, tracking_uri=mlflow_uri).aliases == ("champion",)
    with pytest.raises(RegistryError, match=r"has no version 3 of tiny; it has 1, 2\.$"):
        find("tiny", 3, tracking_uri=mlflow_uri)


def test_changed_files_are_refused(bundles: tuple[Bundle, Bundle], mlflow_uri: str, tmp_path: Path) -> None:
    add(bundles[0], mlflow_uri)
    [stored] = Path(mlflow_uri.removeprefix("sqlite:///")).parent.glob("artifacts/**/bundle")
    weights = stored / "model.safetensors"
    genuine = weights.read_bytes()
    weights.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.safetensors differs from its SHA-256"):
        resolve("models:/tiny/1", tracking_uri=mlflow_uri, cache_folder=tmp_path / "cache")
    # A whole other bundle in its place is genuine in itself, but not what was registered.
    shutil.rmtree(stored)
    shutil.copytree(bundles[1].path, stored)
    with pytest.raises(RegistryError, match=r"tagged with bundle .* but its files are bundle .* use another version"):
        resolve("models:/tiny/1", tracking_uri=mlflow_uri, cache_folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_versions_that_others_registered_are_refused(mlflow_uri: str, tmp_path: Path) -> None:
    with connected(mlflow_uri) as client:
        client.create_registered_model("foreign")
        client.create_model_version("foreign", source=str(tmp_path))
    with pytest.raises(RegistryError, match="has no tag bundle_sha256, so screening did not register it"):
        resolve("models:/foreign/1", tracking_uri=mlflow_uri, cache_folder=tmp_path)


def test_looking_makes_no_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert versions(uri) == []
    with pytest.raises(RegistryError, match="no model was ever registered at"):
        resolve("models:/tiny@champion", tracking_uri=uri, cache_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RegistryError, match="sqlite:///mlflow.db is not absolute"):
        versions("sqlite:///mlflow.db")


def test_mlflow_neither_unpickles_nor_reports_home(mlflow_uri: str) -> None:
    versions(mlflow_uri)
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    assert is_telemetry_disabled()


def test_a_server_over_http_does_the_same(bundles: tuple[Bundle, Bundle], mlflow_server: str, tmp_path: Path) -> None:
    assert [add(bundle, mlflow_server) for bundle in bundles] == [1, 2]
    move_champion("tiny", 1, expected=None, tracking_uri=mlflow_server)
    assert [each.aliases for each in versions(mlflow_server, "tiny")] == [(), ("champion",)]
    path = resolve("models:/tiny@champion", tracking_uri=mlflow_server, cache_folder=tmp_path / "cache")
    assert load_bundle(path).sha256 == bundles[0].sha256
    assert (path / MANIFEST).read_bytes() == (bundles[0].path / MANIFEST).read_bytes()


def test_a_report_stays_with_the_run_it_ends_at(mlflow_server: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>one</p>")
    (tmp_path / "flow.csv").write_text("a,b\n")
    files = {"report.html": tmp_path / "report.html", "tables/flow.csv": tmp_path / "flow.csv"}

    def log(prevalence: float, **parameters: str) -> str:
        return log_report(
            "run7",
            files,
            parameters=parameters,
            figures={"prevalence": prevalence},
            tags={"catalog_id": "abc"},
            tracking_uri=mlflow_server,
        )

    run_id = log(0.1, index_rule="latest")
    (tmp_path / "report.html").write_text("<p>two</p>")
    assert log(0.2, index_rule="first") == run_id  # MLflow allows no second value of a parameter: not an error
    with connected(mlflow_server) as client:
        run = client.get_run(run_id)
        assert (run.data.tags["screening_run_id"], run.data.tags["catalog_id"]) == ("run7", "abc")
        assert run.data.params == {"index_rule": "latest"}
        assert [m.value for m in client.get_metric_history(run_id, "prevalence")] == [0.1, 0.2]
        assert {each.path for each in client.list_artifacts(run_id, "report")} == {
            "report/report.html",
            "report/tables",
        }
        assert Path(client.download_artifacts(run_id, "report/report.html", str(tmp_path))).read_text() == "<p>two</p>"


def test_a_registry_that_is_down_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    message = (
        f"the MLflow registry at http://127.0.0.1:{port} cannot be reached; see that its server runs and that "
        "--tracking-uri names it."
    )
    with pytest.raises(RegistryError, match=f"^{re.escape(message)}$"):
        versions(f"http://user:secret@127.0.0.1:{port}")
    (tmp_path / "mlflow.db").write_text("no database at all, but long enough to be taken for one")
    with pytest.raises(RegistryError, match=r"cannot be used: .*file is not a database\.$"):
        versions(f"sqlite:///{tmp_path / 'mlflow.db'}")
