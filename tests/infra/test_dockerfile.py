"""infra/Dockerfile: rules of its own here, and hadolint. It cannot be built without a container engine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tests.conftest import PROJECT

FILE = PROJECT / "infra" / "Dockerfile"
KNOWN = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "ARG", "USER", "CMD", "COMMENT"}
Line = dict[str, Any]


def stages(text: str) -> dict[str, list[Line]]:
    """Return stage -> its instructions, in order."""
    found: dict[str, list[Line]] = {}
    for line in DockerfileParser(fileobj=BytesIO(text.encode())).structure:
        if line["instruction"] == "COMMENT":
            continue
        if line["instruction"] == "FROM":
            name = line["value"].rpartition(" AS ")[2] if " AS " in line["value"] else ""
            found[name] = []
        found[next(reversed(found))].append(line)
    return found


def allowed() -> set[str]:
    """Return what .dockerignore lets through to the builder."""
    lines = (PROJECT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


def faults(text: str) -> list[str]:
    found = []
    made = stages(text)
    for name, lines in made.items():
        source = lines[0]["value"].partition(" AS ")[0]
        if source not in made and not re.fullmatch(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}", source):
            found.append(f"{source} is not pinned by tag and digest")
        for line in lines:
            if line["instruction"] not in KNOWN:
                found.append(f"unknown instruction {line['instruction']}")
            if line["instruction"] == "RUN":
                command = re.sub(r"--mount=\S+", "", line["value"])
                if subprocess.run(["sh", "-n", "-c", command], capture_output=True, check=False).returncode:
                    found.append(f"not a shell command: {command}")
                for mount in re.findall(r"from=(\w+)", line["value"]):
                    if mount not in made:
                        found.append(f"there is no stage {mount}")
            if line["instruction"] == "COPY":
                for path in line["value"].split()[:-1]:
                    if path not in allowed() or not (PROJECT / path).exists():
                        found.append(f"{path} is not there to be copied")
        if name in ("cpu", "cuda"):
            users = [line["value"] for line in lines if line["instruction"] == "USER"]
            if not users or not re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", users[-1]):
                found.append(f"{name} runs as root")
            installs = " ".join(line["value"] for line in lines if line["instruction"] == "RUN")
            if 'pip install -c constraints.txt "$(ls /wheel/*.whl)[s3,hospital]"' not in installs:
                found.append(f"{name} does not install the wheel with the locked versions and its extras")
    settings = " ".join(line["value"] for lines in made.values() for line in lines if line["instruction"] == "ENV")
    for wanted in ("PIP_NO_CACHE_DIR=1", "RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"):
        if wanted not in settings:
            found.append(f"{wanted} is not set")
    if {"cpu", "cuda"} - set(made):
        found.append("a target is missing")
    return found


def test_the_image_keeps_the_rules() -> None:
    assert faults(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"@sha256:[0-9a-f]{64}", "", "not pinned"),
        (r"USER 10001:10001\nCMD .*\n\nFROM", "FROM", "cuda runs as root"),
        (r"USER 10001:10001", "USER 0:0", "cpu runs as root"),
        (r"COPY jobs", "COPY .git", ".git is not there to be copied"),
        (r"-c constraints.txt ", "", "does not install the wheel with the locked versions"),
        (r",hospital", "", "cpu does not install the wheel with the locked versions"),
        (r"PIP_NO_CACHE_DIR=1", "A=1", "PIP_NO_CACHE_DIR=1 is not set"),
        (r"from=wheel", "from=weel", "there is no stage weel"),
        (r"&& rm -rf", "&& ( rm -rf", "not a shell command"),
        (r"FROM runtime AS cpu", "FROM runtime AS other", "a target is missing"),
        (r"WORKDIR /source", "WORKDR /source", "unknown instruction WORKDR"),
    ],
)
def test_a_broken_one_is_found(old: str, new: str, said: str) -> None:
    broken = re.sub(old, new, FILE.read_text())
    assert broken != FILE.read_text()
    assert any(said in fault for fault in faults(broken))


def test_no_data_goes_to_the_builder() -> None:
    named = allowed()
    for path in (".git", "study", "demo", "runs", "mlflow.db", "tests", "build"):
        assert not any(fnmatch.fnmatch(path, pattern) for pattern in named)
    assert named == {"constraints.txt", "jobs", "LICENSE", "pyproject.toml", "README.md", "screening"}


@pytest.mark.parametrize(("extra", "clean"), [("", True), ("RUN cd /tmp && sudo ls\n", False)])
def test_hadolint_has_nothing_to_say(extra: str, clean: bool) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "the extra dev brings it"
    done = subprocess.run([hadolint, "-"], input=FILE.read_text() + extra, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is clean, done.stdout
