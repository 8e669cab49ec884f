"""Which version is champion, since when, why and on what evidence: the only way in which the alias ``champion`` moves.

Every change is written down before the alias moves: in full as JSON among the artifacts of the version's run, in short,
with the hash of the full record, as a tag of the version. A refused promotion is written down too and moves nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import screening
from screening.archive.catalog import open_catalog
from screening.contract import NOTICE
from screening.errors import UserError
from screening.model.bundle import load_bundle
from screening.train.bounds import GateSettings
from screening.train.data import load_training_set
from screening.train.gate import Verdict, judge
from screening.train.registry import (
    CHAMPION,
    ModelVersion,
    attach,
    find,
    move_champion,
    read_attached,
    resolve,
    tag,
    versions,
)
from screening.train.tracking import RegistryError

PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"
CHANGE_TAG = "change."
RECORD_SCHEMA = 1


@dataclass(frozen=True)
class Change:
    """A change of the champion, or a promotion that was refused, in short."""

    action: str  # PROMOTED, REFUSED or ROLLED_BACK
    at: datetime  # UTC
    by: str
    why: str
    from_version: int | None
    from_bundle_sha256: str | None
    to_version: int
    to_bundle_sha256: str
    evaluation_set_sha256: str | None  # None for a rollback, which judges nothing
    figures: dict[str, float | None]  # bound -> what was measured
    failed: tuple[str, ...]  # names of the bounds that refused it
    moved: bool  # whether the alias moved; always False of a refusal
    record: str  # artifact of the run of ``to_version`` that holds all of it
    record_sha256: str


def judge_version(
    name: str,
    version: int,
    *,
    catalog_path: str,
    settings: GateSettings,
    tracking_uri: str,
    cache_folder: str | Path,
    folds: Collection[int] | None = None,
    device: str = "cpu",
    storage_options: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Judge a registered version against the present champion on the labelled records of a catalog. Changes nothing.

    Parameters
    ----------
    folds
        Of the catalog; None takes all.
    cache_folder
        Where fetched bundles are kept.
    on_stage
        Told what is being done.

    Raises
    ------
    UserError
        The version is not known or champion already, or what ``gate.judge`` says.
    """
    registered = versions(tracking_uri, name)
    candidate, present = find(name, version, tracking_uri=tracking_uri, among=registered), _champion(registered)
    if present is not None and present.version == version:
        raise RegistryError(f"version {version} of {name} is its champion already.")
    wanted = [each for each in (candidate, present) if each is not None]
    on_stage(" and ".join(f"version {each.version}" for each in wanted) + ": fetching and verifying")
    bundles = [
        load_bundle(resolve(f"models:/{name}/{each.version}", tracking_uri=tracking_uri, cache_folder=cache_folder))
        for each in wanted
    ]
    on_stage("reading the evaluation set")
    catalog = open_catalog(catalog_path, storage_options=storage_options)
    ways = list(dict.fromkeys(bundle.preprocessing for bundle in bundles))
    records = [load_training_set(catalog_path, way, folds=folds, storage_options=storage_options) for way in ways]
    on_stage(f"judging on {len(records[0]):,} records")
    verdict = judge(
        bundles[0],
        bundles[1] if len(bundles) == 2 else None,
        records[0],
        settings,
        champion_records=records[-1],
        whence={
            "catalog_id": catalog.catalog_id,
            "label_rule": catalog.label_rule.name if catalog.label_rule else None,
            "folds": sorted(folds) if folds else None,
        },
        device=device,
    )
    numbered = [
        {"version": each.version, **(of or {})}
        for each, of in zip(wanted, (verdict.candidate, verdict.champion), strict=False)
    ]
    return replace(verdict, candidate=numbered[0], champion=numbered[1] if present else None)


def promote(name: str, version: int, verdict: Verdict, *, by: str, why: str, at: datetime, tracking_uri: str) -> Change:
    """Make a version champion, if the verdict says so; write either down.

    Parameters
    ----------
    verdict
        Of this version against the present champion.
    by, why, at
        Who decided, for what reason, and when.

    Returns
    -------
    Change
        ``action`` is ``promoted`` or ``refused``.

    Raises
    ------
    RegistryError
        Another version has become champion since the verdict; nothing is written or moved.
    """
    registered = versions(tracking_uri, name)
    candidate, present = find(name, version, tracking_uri=tracking_uri, among=registered), _champion(registered)
    if verdict.candidate["bundle_sha256"] != candidate.bundle_sha256:
        raise ValueError(f"the verdict is of bundle {verdict.candidate['bundle_sha256']}, not of version {version}")
    judged = verdict.champion["bundle_sha256"] if verdict.champion else None
    if judged != (present.bundle_sha256 if present else None):
        now = f"version {present.version}" if present else "none"
        raise RegistryError(
            f"the champion of {name} has changed since version {version} was judged (now {now}), so nothing was moved; "
            "judge again."
        )
    action = PROMOTED if verdict.passed else REFUSED
    return _write(action, candidate, present, registered, verdict, by=by, why=why, at=at, tracking_uri=tracking_uri)


def rollback(
    name: str,
    *,
    to: int | None = None,
    by: str,
    why: str,
    at: datetime,
    tracking_uri: str,
    cache_folder: str | Path,
) -> Change:
    """Make an earlier champion champion again, without the gate.

    Parameters
    ----------
    to
        A version that was champion once. None: the one that the present champion took over from; done twice it goes
        back twice, since what was rolled back does not count as an earlier champion.

    Raises
    ------
    RegistryError
        There is no earlier champion, ``to`` never was one, or its files are not what was registered.
    """
    registered = versions(tracking_uri, name)
    present = _champion(registered)
    if present is None:
        missing = f"{name} has no champion" if registered else f"the registry has no model {name}"
        raise RegistryError(f"{missing}, so there is nothing to roll back.")
    changes = changes_of(registered)
    if to is None:
        line = _line(changes, present.version)
        if len(line) < 2:
            raise RegistryError(f"version {present.version} of {name} is its first champion, there is none before it.")
        to = line[-2]
    target = find(name, to, tracking_uri=tracking_uri, among=registered)
    if to == present.version:
        raise RegistryError(f"version {to} of {name} is its champion already.")
    if to not in {each for change in changes if change.moved for each in (change.from_version, change.to_version)}:
        raise RegistryError(
            f"version {to} of {name} was never its champion; `screening promote {name} {to}` judges it."
        )
    resolve(f"models:/{name}/{to}", tracking_uri=tracking_uri, cache_folder=cache_folder)
    return _write(ROLLED_BACK, target, present, registered, None, by=by, why=why, at=at, tracking_uri=tracking_uri)


def history(name: str, *, tracking_uri: str) -> list[Change]:
    """Return the changes of a model's champion and the refusals, oldest first."""
    registered = versions(tracking_uri, name)
    if not registered:
        raise RegistryError(f"the registry has no model {name}, and so no history of it.")
    return changes_of(registered)


def changes_of(registered: Sequence[ModelVersion]) -> list[Change]:
    """Return the changes in the tags of all versions of a model, oldest first."""
    found = [_from_tag(value) for each in registered for key, value in each.tags.items() if key.startswith(CHANGE_TAG)]
    found.sort(key=lambda change: (change.at, change.record))
    moves = [at for at, change in enumerate(found) if change.action != REFUSED]
    present = _champion(registered)
    if moves and present is not None and found[moves[-1]].to_version == present.version:
        found[moves[-1]] = replace(found[moves[-1]], moved=True)  # see _settle
    return found


def change_record(name: str, change: Change, *, tracking_uri: str) -> dict[str, Any]:
    """Return the full record of a change.

    Raises
    ------
    RegistryError
        It is gone, or is not what was written.
    """
    version = find(name, change.to_version, tracking_uri=tracking_uri)
    text = read_attached(version, change.record, tracking_uri=tracking_uri)
    if hashlib.sha256(text.encode()).hexdigest() != change.record_sha256:
        raise RegistryError(
            f"the record {change.record} of {name} version {change.to_version} differs from its SHA-256."
        )
    record: dict[str, Any] = json.loads(text)
    return record


def _write(
    action: str,
    target: ModelVersion,
    present: ModelVersion | None,
    registered: Sequence[ModelVersion],
    verdict: Verdict | None,
    *,
    by: str,
    why: str,
    at: datetime,
    tracking_uri: str,
) -> Change:
    """Write a change down and then, unless it is a refusal, move the alias."""
    if at.utcoffset() is None:
        raise ValueError("at must say its time zone")
    if not by.strip() or max(len(by), len(why)) > 2000:
        raise UserError("say who makes the change, and why in at most 2,000 letters.")
    judged = verdict.to_json() if verdict else None
    whence = (present.version, present.bundle_sha256) if present else (None, None)
    full = {
        "schema_version": RECORD_SCHEMA,
        "notice": NOTICE,
        "program": f"screening {screening.__version__}",
        "model": target.name,
        "action": action,
        "at": at.isoformat(),
        "by": by,
        "why": why,
        "from": {"version": whence[0], "bundle_sha256": whence[1]},
        "to": {"version": target.version, "bundle_sha256": target.bundle_sha256},
        "verdict": judged,
    }
    text = json.dumps(full, indent=1, allow_nan=False) + "\n"
    name = f"{at:%Y%m%dT%H%M%S.%fZ}"
    change = Change(
        action=action,
        at=at,
        by=by,
        why=why,
        from_version=whence[0],
        from_bundle_sha256=whence[1],
        to_version=target.version,
        to_bundle_sha256=target.bundle_sha256,
        evaluation_set_sha256=judged["evaluation_set"]["sha256"] if judged else None,
        figures={bound["name"]: bound["value"] for bound in judged["bounds"]} if judged else {},
        failed=tuple(bound.name for bound in verdict.bounds if not bound.passed) if verdict else (),
        moved=False,
        record=f"changes/{name}.json",
        record_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    _settle(registered, tracking_uri)
    attach(target, change.record, text, tracking_uri=tracking_uri)
    tag(target, CHANGE_TAG + name, _to_tag(change), tracking_uri=tracking_uri)
    if action == REFUSED:
        return change
    move_champion(target.name, target.version, expected=whence[0], tracking_uri=tracking_uri)
    change = replace(change, moved=True)
    tag(target, CHANGE_TAG + name, _to_tag(change), tracking_uri=tracking_uri)
    return change


def _settle(registered: Sequence[ModelVersion], tracking_uri: str) -> None:
    """Confirm a change whose process ended between moving the alias and saying so, before another move hides it."""
    settled = {change.record_sha256: change for change in changes_of(registered)}
    for version in registered:
        for key, value in version.tags.items():
            if key.startswith(CHANGE_TAG) and (change := settled[_from_tag(value).record_sha256]) != _from_tag(value):
                tag(version, key, _to_tag(change), tracking_uri=tracking_uri)


def _line(changes: Sequence[Change], present: int) -> list[int]:
    """Return the champions that led to the present one, which is the last: going back takes from the end."""
    line: list[int] = []
    for change in changes:
        if not change.moved:
            continue
        if change.from_version is not None:
            _go(line, change.from_version)  # differs from the last only where another program moved the alias
        if change.action == ROLLED_BACK:
            _go(line, change.to_version)
        else:
            line.append(change.to_version)
    _go(line, present)
    return line


def _go(line: list[int], version: int) -> None:
    if version in line:
        del line[len(line) - line[::-1].index(version) :]
    else:
        line.append(version)


def _champion(registered: Sequence[ModelVersion]) -> ModelVersion | None:
    return next((each for each in registered if CHAMPION in each.aliases), None)


def _to_tag(change: Change) -> str:
    plain = {**change.__dict__, "at": change.at.isoformat(), "failed": list(change.failed)}
    return json.dumps(plain, sort_keys=True, allow_nan=False)


def _from_tag(value: str) -> Change:
    plain = json.loads(value)
    return Change(**{**plain, "at": datetime.fromisoformat(plain["at"]), "failed": tuple(plain["failed"])})
