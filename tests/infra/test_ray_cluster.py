"""Cluster files, by Ray's own validation, by AWS's own description of its API, and by running their set-up."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import PROJECT

FILES = ("ray_cluster.yaml", "infra/on_premises.yaml")
Config = dict[str, Any]


def load(name: str) -> Config:
    config: Config = yaml.safe_load((PROJECT / name).read_text())
    return config


def check(config: Config) -> Config:
    """Return the configuration as Ray completes it, after all checks that can be made without a cloud."""
    completed: Config = prepare_config(deepcopy(config))
    validate_config(completed)
    if config["provider"]["type"] == "aws":
        service = botocore.session.get_session().get_service_model("ec2")
        for node in config["available_node_types"].values():
            run = {"MinCount": 1, "MaxCount": 1, **node["node_config"]}
            shape = service.operation_model("RunInstances").input_shape
            if (report := ParamValidator().validate(run, shape)).has_errors():
                raise ValueError(report.generate_report())
        group = {"IpPermissions": config["provider"]["security_group"]["IpPermissions"]}
        shape = service.operation_model("AuthorizeSecurityGroupIngress").input_shape
        if (report := ParamValidator().validate(group, shape)).has_errors():
            raise ValueError(report.generate_report())
    return completed


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_it(name: str) -> None:
    completed = check(load(name))
    kinds = completed["available_node_types"]
    assert completed["head_node_type"] in kinds
    assert sum(kind["min_workers"] for kind in kinds.values()) <= completed["max_workers"]


@pytest.mark.parametrize(
    ("name", "path", "value", "raised", "said"),
    [
        ("ray_cluster.yaml", "max_worker", 3, jsonschema.ValidationError, "max_worker"),
        ("ray_cluster.yaml", "max_workers", 1, ValueError, "smaller than the sum of `min_workers`"),
        ("ray_cluster.yaml", "head_node_type", "boss", ValueError, "must be one of `available_node_types`"),
        ("ray_cluster.yaml", "available_node_types.scorer.resources.GPU", 0.5, jsonschema.ValidationError, "0.5"),
        ("ray_cluster.yaml", "available_node_types.head.node_config.InstanceTyp", "x", ValueError, "InstanceTyp"),
        (
            "ray_cluster.yaml",
            "available_node_types.scorer.node_config.InstanceMarketOptions",
            {"MarketTyp": "spot"},
            ValueError,
            "MarketTyp",
        ),
        ("ray_cluster.yaml", "provider.security_group.IpPermissions", [{"Port": 22}], ValueError, "Port"),
        ("infra/on_premises.yaml", "auth.ssh_usr", "root", jsonschema.ValidationError, "ssh_usr"),
        ("infra/on_premises.yaml", "file_mount", {}, jsonschema.ValidationError, "file_mount"),
    ],
)
def test_a_broken_one_is_refused(name: str, path: str, value: Any, raised: type[Exception], said: str) -> None:
    config = load(name)
    node: Any = config
    *way, last = path.split(".")
    for part in way:
        node = node[part]
    node[last] = value
    with pytest.raises(raised, match=said):
        check(config)


def test_who_is_on_spot_and_who_is_not() -> None:
    kinds = load("ray_cluster.yaml")["available_node_types"]
    on_spot = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        for name, kind in kinds.items()
    }
    assert on_spot == {"head": False, "scorer": True, "decoder": True}
    assert kinds["scorer"]["min_workers"] == kinds["scorer"]["max_workers"]  # a run takes the GPUs that are there
    assert all(
        disk["Ebs"]["Encrypted"] for kind in kinds.values() for disk in kind["node_config"]["BlockDeviceMappings"]
    )


def set_up(config: Config, home: Path, bin_: Path, wheels: tuple[str, ...]) -> tuple[list[list[str]], dict[str, str]]:
    """Run the lines that Ray would run on the head, twice, with stand-ins for what installs.

    Returns the arguments of every ``pip install``, and the environment.
    """
    bin_.mkdir()
    for there, here in config["file_mounts"].items():
        place = home / Path(there).relative_to(f"/home/{config['auth']['ssh_user']}")
        assert here in ("dist", "~/.ray/auth_token") or (PROJECT / here).is_file()
        place.parent.mkdir(parents=True, exist_ok=True)
        if here != "dist":
            place.write_text("x")
            continue
        place.mkdir()
        for age, wheel in enumerate(reversed(wheels)):
            (place / wheel).touch()
            os.utime(place / wheel, (10**9 + age, 10**9 + age))
    (home / ".bashrc").write_text("return\n")
    of_pip = 'printf "%s\\t" "$@" >> ~/installed; echo >> ~/installed\n'
    of_pip += 'for f in "$@"; do case $f in *.txt) test -s "$f" || exit 1;; esac; done'
    stand_ins = {
        "python3": 'test "$*" = "-m venv $HOME/venv" && mkdir -p ~/venv/bin && cp "$(dirname "$0")/pip" ~/venv/bin/pip',
        "pip": of_pip,
        "sudo": ":",
        "cloud-init": ":",
    }
    for command, does in stand_ins.items():
        (bin_ / command).write_text(f"#!/bin/bash\n{does}\n")
        (bin_ / command).chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{bin_}:{os.environ['PATH']}"}
    for _ in range(2):
        (home / "installed").unlink(missing_ok=True)
        for line in config["head_setup_commands"]:  # Ray has put those of every machine before them
            done = subprocess.run(["bash", "-ec", line], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
    return [line.split("\t")[:-1] for line in (home / "installed").read_text().splitlines()], environment


NEW, OLD = "ecg_screening-0.10.0-py3-none-any.whl", "ecg_screening-0.9.0-py3-none-any.whl"


@pytest.mark.parametrize("wheels", [(NEW,), (NEW, OLD)], ids=["one wheel", "two wheels"])
@pytest.mark.parametrize("name", FILES)
def test_set_up_installs_the_newest_wheel_with_the_locked_versions(
    name: str, wheels: tuple[str, ...], tmp_path: Path
) -> None:
    config, home = check(load(name)), tmp_path / "home"
    asked, environment = set_up(config, home, tmp_path / "bin", wheels)
    lock = ["install", "-q", "-c", f"{home}/screening/constraints.txt"]
    assert [each[:4] for each in asked] == [lock] * len(asked)  # nothing moves what the lock holds
    wanted = [[f"{home}/screening/dist/{NEW}[s3,hospital]"]]
    assert [each[4:] for each in asked] == wanted + ([["boto3"]] if config["provider"]["type"] == "aws" else [])
    set_by = subprocess.run(
        ["bash", "-c", ". ~/screening/env && echo $RAY_AUTH_MODE $PATH"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert set_by.stdout.startswith(f"token {home}/venv/bin:")
    assert (home / ".bashrc").read_text().count("screening/env") <= 1


def test_what_ray_adds_where_the_heads_set_up_is_left_out_is_found(tmp_path: Path) -> None:
    config = load("ray_cluster.yaml")
    del config["head_setup_commands"]
    asked, _ = set_up(check(config), tmp_path / "home", tmp_path / "bin", (NEW,))
    assert asked[-1] == ["install", "boto3>=1.4.8"]


def test_the_locked_boto3_works_with_the_locked_botocore() -> None:
    """The one that the head starts machines with, and the one that s3fs reads the bucket with."""
    lock = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line)
    for needs in ("boto3", "aiobotocore"):
        asked = [Requirement(each) for each in importlib.metadata.requires(needs) or []]
        (of_botocore,) = [each for each in asked if each.name == "botocore" and each.marker is None]
        assert importlib.metadata.version(needs) == lock[needs]
        assert of_botocore.specifier.contains(lock["botocore"])


@pytest.mark.parametrize("name", FILES)
def test_ray_is_started_with_a_token_and_its_options_exist(name: str) -> None:
    config = load(name)
    help_ = subprocess.run(
        ["ray", "start", "--help"], capture_output=True, text=True, check=False, env=with_ray()
    ).stdout
    for lines in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        for line in lines:
            assert line.startswith(". ~/screening/env && ")
            assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
            for option in [word.partition("=")[0] for word in line.split() if word.startswith("--")]:
                assert option in help_
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def with_ray() -> dict[str, str]:
    import sys

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
