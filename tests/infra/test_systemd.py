"""The service and timer for one machine, by systemd's own tools where they are, and by what the files say."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

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
