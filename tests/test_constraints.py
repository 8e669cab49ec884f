"""The lock: constraints.txt pins everything that an installation of the project brings, itself and through others."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import PROJECT

EXTRAS = ("dev", "s3", "hospital", "captum", "audit", "fuzz")
NOT_INSTALLED = {"atheris", "cyclonedx-bom", "pip-audit"}
"""Tools of `make audit` and `make fuzz-guided`, which alone install them; what they bring is looked at where they are there."""


def locked() -> dict[str, Version]:
    """Return name -> version of the lock."""
    lines = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if not pin]
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}


def needed() -> set[str]:
    """Return the names of everything that the project needs here, directly or through others."""
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *(each for name in EXTRAS for each in project["optional-dependencies"][name])]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in found:
            continue
        found.add((name, extras))
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert name in NOT_INSTALLED, f"{name} is needed and not installed"
            continue
        for text in requires:
            other = Requirement(text)
            environments = [{**default_environment(), "extra": extra} for extra in (extras or {""})]
            if other.marker is None or any(other.marker.evaluate(environment) for environment in environments):
                waiting.append(text)
    return {name for name, _ in found}


def test_no_extra_is_left_out() -> None:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"])


def test_everything_that_an_installation_brings_is_locked() -> None:
    lock, names = locked(), needed()
    assert len(names) > 120
    assert sorted(names - set(lock) - {"setuptools"}) == []  # setuptools builds, and computes nothing


def test_torch_is_locked_as_it_is_published() -> None:
    """Without a suffix: an index that offers one gives its CPU build."""
    assert str(locked()["torch"]) == "2.13.0"


def test_installed_versions_are_the_locked_ones() -> None:
    lock = locked()
    other = {
        name: (installed, str(lock[name]))
        for name in needed() - NOT_INSTALLED
        if name in lock and Version(installed := importlib.metadata.version(name)).public != lock[name].public
    }
    assert other == {}


def test_make_audit_asks_of_every_locked_version_and_writes_a_bill_of_materials() -> None:
    """And `make check`, which has no database to ask, does not."""

    def runs(target: str) -> str:
        # Whatever stands: as if all tools were to be installed first.
        done = subprocess.run(["make", "-n", "-B", target], capture_output=True, text=True, check=True, cwd=PROJECT)
        return done.stdout

    assert re.search(r"pip-audit --strict .*-r constraints\.txt \|\| .*exit 1", runs("audit"))
    assert re.search(r"cyclonedx-py environment .*-o build/sbom\.json", runs("audit"))
    assert not re.search("pip-audit|cyclonedx", runs("check"))
