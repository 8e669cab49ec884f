"""The wheel: it carries what the program needs, and works where the project's folder is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import screening
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as a release does, of a copy, with what is installed here instead of what an index gives."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith("screening/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((PROJECT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.iterdir()
    return found


def test_it_carries_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = Parser().parsestr(archive.read(f"ecg_screening-{screening.__version__}.dist-info/METADATA").decode())
    tracked = subprocess.run(["git", "ls-files", "screening"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert names == set(tracked.stdout.splitlines())
    for name in (
        "model/pretrained/model.safetensors",
        "report/templates/report.html",
        "report/populations/esp2013.csv",
    ):
        assert f"screening/{name}" in names
    assert wheel.name == f"ecg_screening-{screening.__version__}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def demo(python: Path, folder: Path, **variables: str) -> dict[str, object]:
    """Run the demo there, with nothing of the project's folder in reach."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    environment |= {"HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    found = subprocess.run(
        [python, "-c", "import screening; print(screening.__file__)"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not Path(found.stdout.strip()).is_relative_to(PROJECT)
    command = [python, "-m", "screening", "demo", "--records", "200", "--dest", str(folder / "demo"), "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said: dict[str, object] = json.loads(done.stdout)
    return said


@pytest.mark.long
def test_the_demo_runs_from_it(wheel: Path, tmp_path: Path) -> None:
    """Unpacked by pip into a folder of its own; what it depends on is that of this environment."""
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    demo(Path(sys.executable), tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "demo" / "report" / "report.html").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_demo_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """With everything that it depends on, in the locked versions, from the package index."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", PROJECT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True)
    demo(python, tmp_path)
    assert (tmp_path / "demo" / "report" / "report.html").exists()
