"""The service and timer for one machine, by systemd's own tools where they are, and by what the files say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from screening.model.bundle import PRETRAINED, load_bundle
from screening.nightly.settings import NightlySettings
from screening.settings import load_settings
from tests.conftest import PROJECT

FOLDER = PROJECT / "infra" / "systemd"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
MOST_EXPOSED = 20  # tenths; systemd calls all below 2.0 well protected


class Units(RawConfigParser):
    """Keys keep their case, and may stand more than once."""

    def __init__(self, text: str) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(text)


def unit(kind: str) -> Units:
    return Units((FOLDER / f"screening-nightly.{kind}").read_text())


def verify(folder: Path) -> str:
    """Return what systemd has against the units in ``folder``, with the program and accounts of this machine in place."""
    service = folder / "screening-nightly.service"
    text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", service.read_text())
    service.write_text(text.replace("User=screening", "User=root").replace("Group=screening", "Group=root"))
    command = ["systemd-analyze", "verify", "--man=no", str(folder / "screening-nightly.timer"), str(service)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr + ("" if done.returncode == 0 else "refused")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    for path in FOLDER.glob("screening-nightly.*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def complaints(said: str) -> list[str]:
    return [line for line in said.splitlines() if "screening-nightly" in line or line == "refused"]


@needs_systemd
def test_systemd_takes_them(units: Path) -> None:
    assert complaints(verify(units)) == []


@needs_systemd
@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("service", "NoNewPrivileges=true", "NoNewPriviledges=true", "NoNewPriviledges"),
        ("service", "Type=oneshot", "Type=once", "once"),
        ("service", "Restart=on-failure", "Restart=always", "Restart="),
        ("timer", "22:30:00", "25:30:00", "Failed to parse calendar"),
        ("timer", "OnCalendar=", "OnCalender=", "OnCalender"),
    ],
)
def test_systemd_refuses_broken_ones(name: str, old: str, new: str, said: str, units: Path) -> None:
    path = units / f"screening-nightly.{name}"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(said in line for line in complaints(verify(units)))


@needs_systemd
@pytest.mark.parametrize(
    ("removed", "safe"), [("", True), (r"(?m)^(Protect|Restrict|System|Capab|IPAddress).*$", False)]
)
def test_the_service_is_closed(removed: str, safe: bool, units: Path) -> None:
    service = units / "screening-nightly.service"
    if removed:
        service.write_text(re.sub(removed, "", service.read_text()))
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={MOST_EXPOSED}",
        str(service),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is safe, done.stdout[-400:]


def test_the_night_is_started_as_it_should_be() -> None:
    service, timer = unit("service")["Service"], unit("timer")
    assert timer["Timer"]["Persistent"] == "true"  # a missed night is made up for
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert service["ExecStart"].endswith("screening nightly --settings /etc/screening/nightly.yaml")
    assert service["RestartPreventExitStatus"] == "1 2"  # 3 goes on where it stopped
    for key, value in {
        "ProtectSystem": "strict",
        "ProtectHome": "true",
        "PrivateTmp": "true",
        "NoNewPrivileges": "true",
        "CapabilityBoundingSet": "",
        "UMask": "0077",
        "ReadOnlyPaths": "/srv/ecg",
        "StateDirectoryMode": "0700",
    }.items():
        assert service[key] == value
    assert service["User"] == "screening"


def test_the_settings_are_those_of_a_night() -> None:
    found = load_settings(NightlySettings, FOLDER / "nightly.yaml")
    service = unit("service")["Service"]
    assert found.archive == service["ReadOnlyPaths"]
    state = f"/var/lib/{service['StateDirectory']}/"
    assert all(url.startswith(state) for url in (found.catalog, found.runs, found.report))
    assert found.key_file == f"/run/credentials/screening-nightly.service/{service['LoadCredential'].partition(':')[0]}"


def instructions() -> list[str]:
    """Return the commands at the top of the service, in order."""
    text = (FOLDER / "screening-nightly.service").read_text()
    return re.findall(r"(?m)^#   (\S.*)$", text.partition("[Unit]")[0])


OPTIONS_OF_OWNERS = (
    'for a in "$@"; do shift; case "$a" in -o|-g) skip=1;; *) [ "$skip" ] && skip= || set -- "$@" "$a";; esac; done'
)


def install(lines: list[str], root: Path) -> list[str]:
    """Follow the instructions below ``root``, with stand-ins for what makes accounts, installs packages and starts units.

    Returns what is missing for a first night. That `register` on an empty state makes version 1, docs/nightly.md shows.
    """
    bin_, checkout = root / "bin", root / "checkout"
    (checkout / "dist").mkdir(parents=True)
    bin_.mkdir()
    (root / "etc/systemd/system").mkdir(parents=True)
    for path in ("infra", "constraints.txt"):
        (checkout / path).symlink_to(PROJECT / path)
    (checkout / "dist" / "ecg_screening-0.1.0-py3-none-any.whl").touch()
    (checkout / "pseudonym.key").write_text("0" * 64)
    stand_ins = {
        "useradd": ":",
        "systemctl": ":",
        "sudo": 'test "$1" = -u && shift 2 && exec env "$@"',
        "install": f'{OPTIONS_OF_OWNERS}; exec {shutil.which("install")} "$@"',
        "python3": f'test "$1 $2" = "-m venv" && mkdir -p "$3/bin" && cp {bin_}/pip "$3/bin/pip"',
        # The extras and the lock belong to it: without them it makes no program.
        "pip": 'case "$*" in "install -c constraints.txt dist/ecg_screening-"*".whl[s3,hospital]") '
        f'cp {bin_}/program "$(dirname "$0")/screening";; esac',
        "program": 'echo "$* HOME=$HOME SCREENING_STATE=$SCREENING_STATE SCREENING_AUDIT_LOG=$SCREENING_AUDIT_LOG" '
        f"> {root}/said",
    }
    for command, does in stand_ins.items():
        (bin_ / command).write_text(f"#!/bin/sh\n{does}\n")
        (bin_ / command).chmod(0o755)

    def here(path: str) -> Path:
        return root / path.removeprefix("/")

    environment = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    for line in lines:
        below = re.sub(r"(?<![\w/])/(?=(etc|opt|var/lib)/)", f"{root}/", line)
        subprocess.run(["bash", "-ec", below], cwd=checkout, env=environment, capture_output=True, check=False)
    service = unit("service")["Service"]
    program, _, settings = service["ExecStart"].partition(" nightly --settings ")
    key = here(service["LoadCredential"].partition(":")[2])
    wanted = {
        "the program": here(program).exists(),
        "the settings": here(settings).exists(),
        "the key, closed to others": key.exists() and key.stat().st_mode & 0o777 == 0o600,
        "the units": {path.name for path in here("/etc/systemd/system").iterdir()}
        == {path.name for path in FOLDER.glob("screening-nightly.*")},
    }
    said = root / "said"
    environment_of_it = re.findall(r"(?m)^Environment=(HOME=.*)$", (FOLDER / "screening-nightly.service").read_text())
    registered = "register " + environment_of_it[0].replace("/var/lib", f"{root}/var/lib")
    wanted["the model, where the service looks for it"] = said.exists() and said.read_text().strip() == registered
    return [what for what, there in wanted.items() if not there]


def test_after_the_instructions_a_night_can_begin(tmp_path: Path) -> None:
    assert install(instructions(), tmp_path) == []
    assert instructions()[-1].startswith("systemctl start screening-nightly.service")
    of_it = load_settings(NightlySettings, FOLDER / "nightly.yaml").model
    assert of_it == f"models:/{load_bundle(PRETRAINED).name}/1"  # an alias nobody has set would fail the first night


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("pip install", ["the program", "the model, where the service looks for it"]),
        ("screening register", ["the model, where the service looks for it"]),
        ("pseudonym.key", ["the key, closed to others"]),
        ("nightly.yaml", ["the settings"]),
        ("screening-nightly.timer /etc", ["the units"]),
    ],
)
def test_instructions_that_leave_something_out_are_found(left_out: str, missing: list[str], tmp_path: Path) -> None:
    lines = [line for line in instructions() if left_out not in line]
    assert len(lines) == len(instructions()) - 1
    assert install(lines, tmp_path) == missing
