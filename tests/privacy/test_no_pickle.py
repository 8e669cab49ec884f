"""No pickle is ever loaded: one is planted wherever a file is read, and would leave a mark if it were."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from screening.archive.catalog import open_catalog
from screening.archive.labels import load_rule
from screening.archive.mapping import load_mapping
from screening.contract import sha256_of
from screening.errors import UserError
from screening.model.bundle import (
    CARD,
    GOLDEN,
    MANIFEST,
    OUT_OF_FOLD,
    REFERENCE,
    SEEN,
    WEIGHTS,
    Bundle,
    check_golden,
    encode_manifest,
    load_bundle,
)
from screening.model.locate import resolve_model
from screening.run.donors import load_donor_set
from screening.run.plan import read_locations, read_shard
from screening.run.read import iter_results
from screening.settings import ReportSettings, RunSettings, load_settings
from screening.storage import Folder
from screening.train.assemble import TrainSettings
from screening.train.fit import FitSettings
from screening.train.loop import DATA, STATE, _load_state, _read_arrays
from screening.train.procedure import Procedure
from screening.train.trials import TrialStore
from tests.bundles import TINY, make_bundle
from tests.conftest import PROJECT
from tests.published import publish_run, write_catalog


class Mark:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the file that tells that a pickle was loaded."""
    return tmp_path / "LOADED"


@pytest.fixture
def pickled(mark: Path) -> dict[str, bytes]:
    """Return files that are pickles, by kind; loading any of them as such makes ``mark``."""
    stream = io.BytesIO()
    torch.save({"a": Mark(mark)}, stream)
    array = io.BytesIO()
    np.save(array, np.array([Mark(mark)], dtype=object), allow_pickle=True)
    arrays = io.BytesIO()
    np.savez(arrays, a=np.array([Mark(mark)], dtype=object))
    return {
        "pickle": pickle.dumps(Mark(mark)),
        "torch": stream.getvalue(),
        "npy": array.getvalue(),
        "npz": arrays.getvalue(),
        "Parquet": pickled_columns(pa.table({"a": [1]}), mark),
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("genuine") / "bundle")


def pickled_columns(table: pa.Table, mark: Path) -> bytes:
    """Return a table as Parquet, its first column of the type whose values Ray Data unpickles, in metadata pickles too."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    kind = ArrowPythonObjectType()
    values = pa.array([pickle.dumps(Mark(mark))] * table.num_rows, kind.storage_type)
    column = pa.field(
        table.schema.names[0],
        kind.storage_type,
        metadata={"ARROW:extension:name": kind.extension_name, "ARROW:extension:metadata": b""},
    )
    old = pa.field("old", pa.binary(), metadata={"ARROW:extension:name": "arrow.py_extension_type"})
    old = old.with_metadata({**old.metadata, "ARROW:extension:metadata": pickle.dumps(Mark(mark))})
    columns = [values, *table.columns[1:], pa.array([b""] * table.num_rows, pa.binary())]
    schema = pa.schema(
        [column, *list(table.schema)[1:], old], {**(table.schema.metadata or {}), b"pandas": pickle.dumps(Mark(mark))}
    )
    stream = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), stream)
    return stream.getvalue()


def test_the_plants_are_alive(mark: Path, pickled: dict[str, bytes]) -> None:
    """What the other tests rest on: each kind, loaded as such, leaves the mark."""
    loads: dict[str, Callable[[bytes], Any]] = {
        "pickle": pickle.loads,
        "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
        "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
        "npz": lambda data: np.load(io.BytesIO(data), allow_pickle=True)["a"],
    }
    for kind, load in loads.items():
        load(pickled[kind])
        assert mark.exists(), kind
        mark.unlink()


# --- Bundles ---------------------------------------------------------------------------------------------------------


def forged(bundle: Bundle, folder: Path, file: str, data: bytes) -> Path:
    """Copy a bundle with another file in it, all hashes made anew, as somebody would who knows how they are made."""
    shutil.copytree(bundle.path, folder)
    (folder / file).write_bytes(data)
    facts = json.loads((folder / MANIFEST).read_text())
    facts["files"][file] = hashlib.sha256(data).hexdigest()
    facts["sha256"] = sha256_of({key: value for key, value in facts.items() if key != "sha256"})
    (folder / MANIFEST).write_bytes(encode_manifest(facts))
    return folder


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy", "npz", "Parquet"])
@pytest.mark.parametrize("file", [WEIGHTS, GOLDEN, SEEN, OUT_OF_FOLD, REFERENCE, CARD])
def test_no_file_of_a_bundle_is_unpickled(
    tmp_path: Path, mark: Path, pickled: dict[str, bytes], bundle: Bundle, file: str, kind: str
) -> None:
    made = forged(bundle, tmp_path / "forged", file, pickled[kind])

    def use() -> None:
        loaded = load_bundle(made)
        check_golden(loaded, loaded.network())
        loaded.seen()
        loaded.out_of_fold()
        loaded.reference()

    if file == CARD:
        use()
    else:
        with pytest.raises(UserError, match=rf"{file} .*is not understood") as said:
            use()
        assert "\n" not in str(said.value)
    assert not mark.exists()


def test_a_bundle_in_whose_place_a_pickle_stands_is_refused(
    tmp_path: Path, mark: Path, pickled: dict[str, bytes], bundle: Bundle
) -> None:
    for kind, data in pickled.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / MANIFEST).write_bytes(data)
        with pytest.raises(UserError, match="differs from its own content hash; copy the whole bundle again"):
            load_bundle(folder)
        changed = Path(shutil.copytree(bundle.path, tmp_path / f"{kind}-bundle"))
        (changed / WEIGHTS).write_bytes(data)
        with pytest.raises(UserError, match=r"differs from its SHA-256 in bundle\.json; copy the whole bundle again"):
            load_bundle(changed)
    assert not mark.exists()


# --- What a run keeps ------------------------------------------------------------------------------------------------


def test_a_donor_set_is_not_unpickled(tmp_path: Path, mark: Path, pickled: dict[str, bytes]) -> None:
    runs = Folder(str(tmp_path))
    for data in (*pickled.values(), b"", b"\0" * 8):
        runs.write("donors/abc.safetensors", data)
        with pytest.raises(UserError, match="the donor set abc in .* is damaged; restore it, or remove the run"):
            load_donor_set(runs, "abc")
    assert not mark.exists()


def test_no_table_of_a_catalog_or_a_run_is_unpickled(tmp_path: Path, mark: Path) -> None:
    """Ray Data knows a column type whose values are unpickled as they are read; a process of ours has Ray Data loaded."""
    import screening.run.engine  # noqa: F401

    catalog = write_catalog(tmp_path / "catalog", [{"record_id": f"r{i}"} for i in range(3)])
    run = publish_run(Folder(str(tmp_path / "runs")), catalog, "1" * 16)
    for path in sorted((*tmp_path.glob("catalog/*.parquet"), *tmp_path.glob("runs/**/*.parquet"))):
        table, footer = pq.read_table(path), pq.read_metadata(path).metadata or {}
        stated = {key: value for key, value in footer.items() if key != b"ARROW:schema"}
        path.write_bytes(pickled_columns(table.replace_schema_metadata(stated), mark))
    assert not mark.exists()
    reads: dict[str, Callable[[], Any]] = {
        "catalog": lambda: [batch.to_pylist() for batch in open_catalog(str(tmp_path / "catalog")).iter_batches()],
        "locations": lambda: list(open_catalog(str(tmp_path / "catalog")).iter_batches(["format"], with_location=True)),
        "plan": lambda: read_shard(run, 0).to_pylist(),
        "places": lambda: read_locations(run, 0),
        "results": lambda: [table.to_pylist() for table in iter_results(run)],
    }
    for what, read in reads.items():
        try:
            read()
        except UserError as error:
            print(what, error)
        assert not mark.exists(), what


# --- Training --------------------------------------------------------------------------------------------------------


def test_trials_and_checkpoints_are_not_unpickled(tmp_path: Path, mark: Path, pickled: dict[str, bytes]) -> None:
    store = TrialStore(tmp_path)
    for kind, data in pickled.items():
        (tmp_path / "t.parquet").write_bytes(data)
        with pytest.raises(UserError, match=r"t\.parquet is no result of a trial \(\w+\); remove it to run it again"):
            store.read("t")
        (tmp_path / STATE).write_bytes(data)
        with pytest.raises(UserError, match=rf"{STATE} is no state of a training .*; remove it to begin anew"):
            _load_state(tmp_path / STATE)
        folder = tmp_path / kind / DATA
        folder.mkdir(parents=True)
        for array in ("signals_mV", "target", "label"):
            (folder / f"train_{array}.npy").write_bytes(data)
        with pytest.raises(UserError, match=r"is no array of a training .*; remove .*data to have it written again"):
            _read_arrays(folder, "train")
    assert not mark.exists()


def test_the_weights_of_a_trial_are_not_unpickled(tmp_path: Path, mark: Path, pickled: dict[str, bytes]) -> None:
    store = TrialStore(tmp_path)
    facts = {"procedure": Procedure(TINY, FitSettings()).to_json()}
    columns = {"record_sha256": ["a"], "logit": [0.0], "probability": [0.5], "flagged": [False]}
    table = pa.table(columns).replace_schema_metadata({b"screening": json.dumps(facts)})
    pq.write_table(table, tmp_path / "t.parquet")
    for data in pickled.values():
        (tmp_path / "t.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=r"t\.safetensors does not hold the weights of its trial"):
            store.network("t")
    assert not mark.exists()


# --- Settings --------------------------------------------------------------------------------------------------------

_TAGS = (
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "{{a: !!python/name:os.system '', b: !!python/module:os ''}}",
)


@pytest.mark.parametrize("tag", _TAGS)
def test_yaml_makes_nothing_but_values(tmp_path: Path, mark: Path, tag: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"workers: {tag.format(mark=mark)}\n")
    for model in (RunSettings, ReportSettings, TrainSettings):
        with pytest.raises(UserError, match=r"settings\.yaml, line 1 is not YAML: could not determine a constructor"):
            load_settings(model, path)
    for load in (load_rule, load_mapping):
        with pytest.raises(UserError, match=r"settings\.yaml is not YAML: line 1: could not determine a constructor"):
            load(str(path))
    assert not mark.exists()


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["weights", "whole model", "model beside the bundle"])
def test_artifacts_of_mlflow_are_not_unpickled(
    tmp_path: Path, mark: Path, pickled: dict[str, bytes], bundle: Bundle, mlflow_uri: str, planted: str
) -> None:
    """On the server a file is changed, or a model in MLflow's own format, which pickles, takes the bundle's place."""
    from screening.train.registry import register

    register(bundle, tracking_uri=mlflow_uri, run_name="r", parameters={}, figures={}, tags={})
    (artifacts,) = Path(mlflow_uri.removeprefix("sqlite:///")).parent.glob("artifacts/*/artifacts/bundle")
    if planted == "weights":
        (artifacts / WEIGHTS).write_bytes(pickled["torch"])
    elif planted == "whole model":
        forged_ = forged(bundle, tmp_path / "forged", WEIGHTS, pickled["torch"])
        shutil.rmtree(artifacts)
        shutil.copytree(forged_, artifacts)
    else:
        (artifacts / "bundle.json").unlink()
        flavour = {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}}
        (artifacts / "MLmodel").write_text(json.dumps({"flavors": flavour}))
        (artifacts / "python_model.pkl").write_bytes(pickled["pickle"])
    expected = {
        "weights": r"model\.safetensors differs from its SHA-256 in bundle\.json; copy the whole bundle again",
        "whole model": "is tagged with bundle .*, but its files are bundle .*; it was changed after it was registered",
        "model beside the bundle": r"bundle\.json is not there or cannot be read",
    }[planted]
    for ref in ("models:/tiny/1",):
        with pytest.raises(UserError, match=expected):
            resolve_model(ref, tracking_uri=mlflow_uri, cache_folder=tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").glob("*") if not path.name.startswith(".")] == []
    assert not mark.exists()


def test_a_bundle_from_a_url_is_compared_with_its_hashes(
    tmp_path: Path,
    mark: Path,
    pickled: dict[str, bytes],
    bundle: Bundle,
    s3: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", s3)
    stores = {"memory": fsspec.filesystem("memory"), "s3": fsspec.filesystem("s3", **s3)}
    for kind, fs in stores.items():
        root = "screening/bundle"
        for name in (*bundle.files, MANIFEST):
            fs.pipe_file(f"{root}/{name}", (bundle.path / name).read_bytes())
        found = resolve_model(f"{kind}://{root}", cache_folder=tmp_path / f"{kind}-kept")
        assert load_bundle(found).sha256 == bundle.sha256
        fs.pipe_file(f"{root}/{WEIGHTS}", pickled["torch"])
        with pytest.raises(UserError, match=r"model\.safetensors differs from its SHA-256 in bundle\.json"):
            resolve_model(f"{kind}://{root}", cache_folder=tmp_path / f"{kind}-anew")
        assert list((tmp_path / f"{kind}-anew").iterdir()) == []
    assert not mark.exists()


# --- The code itself -------------------------------------------------------------------------------------------------

SOURCES = sorted((*PROJECT.glob("screening/**/*.py"), *PROJECT.glob("jobs/**/*.py")))
_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle"}
_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
}
_CALLS |= {"yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle", "log_model", "load_model", "torch.hub.load"}


def dangers(source: str) -> list[str]:
    """Return what a module does that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {name}" for name in names if name.split(".")[0] in _MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in _CALLS or name.split(".")[-1] in ("log_model", "load_model", "unsafe_load", "read_pickle"):
            found.append(name)
        elif name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        elif name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        elif given.get("shell", "False") != "False":
            found.append(f"{name} with shell")
        elif name == "yaml.compose" and given.get("Loader") != "yaml.SafeLoader":
            found.append("yaml.compose without the safe loader")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_module_runs_what_a_file_holds(path: Path) -> None:
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f, Loader=yaml.Loader)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "mlflow.pyfunc.load_model(uri)",
        "pd.read_pickle(path)",
    ],
)
def test_the_search_of_the_code_finds_what_it_is_for(line: str) -> None:
    assert len(dangers(line)) == 1


def test_a_zip_of_a_torch_file_is_what_it_is_taken_for(pickled: dict[str, bytes]) -> None:
    assert "archive/data.pkl" in zipfile.ZipFile(io.BytesIO(pickled["torch"])).namelist()
