"""The registry of model versions, kept by MLflow. Only the driver calls it.

A version is a bundle folder stored as it is, with its hash in a tag: MLflow's own model format pickles, ours does not,
so nothing here calls ``log_model``. No version is champion by being registered: that alias is moved by ``promotion.py``
alone, which keeps the record of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from screening.model.bundle import Bundle, load_bundle
from screening.model.locate import keep
from screening.storage import make_folders
from screening.train.tracking import RegistryError, connected, experiment_id, log_values, public, store_exists

CHAMPION = "champion"
ARTIFACT = "bundle"  # folder of a run's artifacts

_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    bundle_sha256: str
    input_contract_sha256: str
    run_id: str
    registered_at: datetime
    tags: Mapping[str, str]
    figures: Mapping[str, float]  # final metrics of its training


def register(
    bundle: Bundle,
    *,
    tracking_uri: str,
    run_name: str,
    parameters: Mapping[str, Any],
    curves: Sequence[Mapping[str, float]] = (),
    figures: Mapping[str, float],
    tags: Mapping[str, str],
) -> ModelVersion:
    """Log a training and register its bundle as a version. A bundle that is registered already is left as it is.

    Parameters
    ----------
    tracking_uri
        URL of an MLflow server, or ``sqlite:////absolute/mlflow.db``, whose files are kept in ``artifacts`` beside it.
    parameters
        Settings, flattened with dots.
    curves
        Metrics of every epoch; ``epoch`` is the step.
    figures
        Final metrics.
    tags
        What the version was made from, e.g. ``catalog_id``; the bundle's own hashes are added.
    """
    with connected(tracking_uri) as client:
        if any(known.tags.get("bundle_sha256") == bundle.sha256 for known in _stored(client, bundle.name)):
            return next(v for v in _versions(client, bundle.name) if v.bundle_sha256 == bundle.sha256)
        run = client.create_run(experiment_id(client, tracking_uri), run_name=run_name, tags=dict(tags))
        try:
            log_values(client, run, parameters, curves, figures)
            client.log_artifacts(run.info.run_id, str(bundle.path), ARTIFACT)
            client.set_terminated(run.info.run_id, "FINISHED")
            if not client.search_registered_models(f"name = '{bundle.name}'"):
                client.create_registered_model(bundle.name)
            made = client.create_model_version(  # last: a version that is there has all its files
                bundle.name,
                source=f"{run.info.artifact_uri}/{ARTIFACT}",
                run_id=run.info.run_id,
                tags={
                    **tags,
                    "bundle_sha256": bundle.sha256,
                    "bundle_version": bundle.version,
                    "input_contract_sha256": bundle.input_contract_sha256,
                },
            )
        except BaseException:
            with suppress(Exception):  # what went wrong first is what matters
                client.set_terminated(run.info.run_id, "FAILED")
            raise
        return next(v for v in _versions(client, bundle.name) if v.version == int(made.version))


def versions(tracking_uri: str, name: str | None = None) -> list[ModelVersion]:
    """Return the registered versions of model ``name``, or of every model, newest first; empty without a store."""
    if not store_exists(tracking_uri):
        return []
    with connected(tracking_uri) as client:
        names = [name] if name else [model.name for model in _all_models(client)]
        return [version for each in sorted(names) for version in _versions(client, each)]


def find(name: str, version: int, *, tracking_uri: str, among: Sequence[ModelVersion] | None = None) -> ModelVersion:
    """Return a registered version, out of ``among`` if those of the model are known already.

    Raises
    ------
    RegistryError
        Naming the versions that there are.
    """
    found = versions(tracking_uri, name) if among is None else among
    for each in found:
        if each.version == version:
            return each
    raise RegistryError(_unknown(name, version, [each.version for each in found], tracking_uri))


def champion(name: str, *, tracking_uri: str) -> int | None:
    """Return the version that the alias ``champion`` of a model means now, None where it means none."""
    with connected(tracking_uri) as client:
        return _champion(client, name)


def move_champion(name: str, version: int, *, expected: int | None, tracking_uri: str) -> None:
    """Point the alias ``champion`` at a version, unless it means another than ``expected`` by now.

    MLflow cannot compare and set in one step: of two that move within the same milliseconds the later wins.
    """
    with connected(tracking_uri) as client:
        now = _champion(client, name)
        if now != expected:
            raise RegistryError(
                f"the champion of {name} has changed meanwhile, from {_named(expected)} to {_named(now)}, so nothing was "
                "moved; judge again."
            )
        client.set_registered_model_alias(name, CHAMPION, str(version))


def attach(version: ModelVersion, path: str, text: str, *, tracking_uri: str) -> None:
    """Keep a text as artifact ``path`` of a version's run."""
    with connected(tracking_uri) as client:
        client.log_text(version.run_id, text, path)


def read_attached(version: ModelVersion, path: str, *, tracking_uri: str) -> str:
    """Return the text that ``attach`` kept."""
    with connected(tracking_uri), tempfile.TemporaryDirectory(prefix="screening.") as temporary:
        from mlflow.artifacts import download_artifacts

        uri = f"runs:/{version.run_id}/{path}"
        return Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=tracking_uri)).read_text()


def tag(version: ModelVersion, key: str, value: str, *, tracking_uri: str) -> None:
    """Set a tag of a version."""
    with connected(tracking_uri) as client:
        client.set_model_version_tag(version.name, str(version.version), key, value)


def resolve(ref: str, *, tracking_uri: str, cache_folder: str | Path) -> Path:
    """Return the local folder of the bundle that ``models:/name@alias`` or ``models:/name/version`` means now.

    The files are fetched once and kept in ``cache_folder`` under their hash, which is compared with the version's tag.
    """
    match = _REFERENCE.fullmatch(ref)
    if match is None:
        raise RegistryError(f"{ref} is no model reference; write models:/NAME@ALIAS or models:/NAME/VERSION.")
    if not store_exists(tracking_uri):
        raise RegistryError(f"{ref} cannot be found: no model was ever registered at {tracking_uri}.")
    with connected(tracking_uri) as client:
        version = _meant(client, ref, match, tracking_uri)
        sha256 = version.tags.get("bundle_sha256", "")
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RegistryError(f"{ref} has no tag bundle_sha256, so screening did not register it; name another.")
        target: Path = Path(cache_folder).absolute() / sha256
        if not target.is_dir():
            _download(client, version, target, tracking_uri)
    bundle = load_bundle(target)
    if bundle.sha256 != sha256:
        raise RegistryError(
            f"{ref} is tagged with bundle {sha256[:12]}, but its files are bundle {bundle.sha256[:12]}."
        )
    return target


def log_screening(
    run_id: str,
    *,
    model_name: str,
    bundle_sha256: str,
    parameters: Mapping[str, Any],
    figures: Mapping[str, float],
    tags: Mapping[str, str],
    started_at: datetime,
    finished_at: datetime,
    tracking_uri: str,
) -> str:
    """Keep what came of a screening run, linked to the version of the model that scored it; return the id of the MLflow run.

    The MLflow run is found by the tag ``screening_run_id``, and made where there is none; told again, nothing is there twice.
    The link: the tags ``model`` and ``model_version``, and the bundle as a logged model that was this run's input, which
    MLflow shows with the version. A bundle that was never registered is a tag alone.

    Parameters
    ----------
    figures
        Counts, rates and throughput. Nothing of a single record.
    """
    from mlflow.entities import LoggedModelInput

    with connected(tracking_uri) as client:
        experiment = experiment_id(client, tracking_uri)
        found = client.search_runs([experiment], f"tags.screening_run_id = '{run_id}'", max_results=1)
        run = (
            found[0]
            if found
            else client.create_run(
                experiment,
                start_time=round(started_at.timestamp() * 1000),
                tags={"screening_run_id": run_id},
                run_name=f"screening {run_id}",
            )
        )
        version = next(
            (each for each in _stored(client, model_name) if each.tags.get("bundle_sha256") == bundle_sha256), None
        )
        link = {"model": model_name, "bundle_sha256": bundle_sha256}
        if version is not None:
            link["model_version"] = str(version.version)
            inputs = [LoggedModelInput(_logged_model(client, experiment, version))]
            if not client.get_run(run.info.run_id).inputs.model_inputs:  # a search does not bring them
                client.log_inputs(run.info.run_id, models=inputs)
        for key, value in {**tags, **link}.items():
            client.set_tag(run.info.run_id, key, value)
        new = {key: value for key, value in parameters.items() if key not in run.data.params}
        known = run.data.metrics
        log_values(client, run, new, [], {key: value for key, value in figures.items() if known.get(key) != value})
        client.set_terminated(run.info.run_id, "FINISHED", end_time=round(finished_at.timestamp() * 1000))
        return str(run.info.run_id)


def _logged_model(client: Any, experiment: str, version: Any) -> str:
    """Return the id of the logged model that stands for a registered version, making it where there is none."""
    sha256 = version.tags["bundle_sha256"]
    wanted = f"tags.bundle_sha256 = '{sha256}'"
    if found := client.search_logged_models([experiment], wanted, max_results=1):
        return str(found[0].model_id)
    made = client.create_logged_model(
        experiment,
        name=re.sub(r"[^A-Za-z0-9 _-]", "-", f"{version.name}-{version.version}"),
        source_run_id=version.run_id or None,
        tags={"bundle_sha256": sha256, "model": version.name, "model_version": str(version.version)},
        model_type="bundle",
    )
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def _meant(client: Any, ref: str, match: re.Match[str], tracking_uri: str) -> Any:
    """Return MLflow's own entry of the version that a reference means."""
    name, alias = match["name"], match["alias"]
    registered = {int(each.version): each for each in _stored(client, name)}
    if not registered or (alias is None and int(match["version"]) not in registered):
        raise RegistryError(_unknown(name, None if alias else int(match["version"]), list(registered), tracking_uri))
    if alias is None:
        return registered[int(match["version"])]
    aliases = client.get_registered_model(name).aliases
    if alias == CHAMPION and alias not in aliases:
        raise RegistryError(
            f"{ref} means no version yet: {name} has no champion; make one with "
            f"`screening promote {name} VERSION --catalog CATALOG`."
        )
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise RegistryError(f"{ref} means no version: the aliases of {name} are {known}.")
    return registered[int(aliases[alias])]


def _unknown(name: str, version: int | None, known: Sequence[int], tracking_uri: str) -> str:
    where = f"the MLflow registry at {public(tracking_uri)}"
    if not known:
        return f"{where} has no model {name}; `screening models` lists those it has."
    return f"{where} has no version {version} of {name}; it has {', '.join(map(str, sorted(known)))}."


def _champion(client: Any, name: str) -> int | None:
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    found = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if found is None else int(found)


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _download(client: Any, version: Any, target: Path, tracking_uri: str) -> None:
    from mlflow.artifacts import download_artifacts

    make_folders(str(target.parent))
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=target.parent) as temporary:
        source = client.get_model_version_download_uri(version.name, version.version)
        fetched = download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=tracking_uri)
        bundle = load_bundle(fetched)
        if bundle.sha256 != target.name:
            raise RegistryError(
                f"models:/{version.name}/{version.version} is tagged with bundle {target.name[:12]}, but its files are "
                f"bundle {bundle.sha256[:12]}; it was changed after it was registered, so use another version."
            )
        keep(bundle.path, target)


def _all_models(client: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _stored(client: Any, name: str) -> list[Any]:
    """Return MLflow's own entries of a model's versions, newest first; of none, where there is no such model."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda each: -int(each.version))


def _versions(client: Any, name: str) -> list[ModelVersion]:
    found = _stored(client, name)
    aliases: dict[int, list[str]] = {}
    for alias, number in (client.get_registered_model(name).aliases if found else {}).items():
        aliases.setdefault(int(number), []).append(alias)
    return [
        ModelVersion(
            name=name,
            version=int(each.version),
            aliases=tuple(sorted(aliases.get(int(each.version), []))),
            bundle_sha256=each.tags.get("bundle_sha256", ""),
            input_contract_sha256=each.tags.get("input_contract_sha256", ""),
            run_id=each.run_id,
            registered_at=datetime.fromtimestamp(each.creation_timestamp / 1000, UTC),
            tags=dict(each.tags),
            figures=dict(client.get_run(each.run_id).data.metrics) if each.run_id else {},
        )
        for each in found
    ]
