"""Cluster files, by Ray's own validation, by AWS's own description of its API, and by running their set-up."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", FILES)
def test_set_up_installs_the_wheel_with_the_locked_versions(name: str, tmp_path: Path) -> None:
    """Its lines are run, twice, as on a machine, with stand-ins for what would install."""
    config = load(name)
    home, bin_ = tmp_path / "home", tmp_path / "bin"
    bin_.mkdir()
    remote = {
        Path(there).relative_to(f"/home/{config['auth']['ssh_user']}"): here
        for there, here in config["file_mounts"].items()
    }
    for there, here in remote.items():
        assert here in ("dist", "~/.ray/auth_token") or (PROJECT / here).is_file()
        (home / there).parent.mkdir(parents=True, exist_ok=True)
        if here == "dist":
            (home / there).mkdir()
            (home / there / "ecg_screening-0.1.0-py3-none-any.whl").touch()
        else:
            (home / there).write_text("x")
    (home / ".bashrc").write_text("return\n")
    stand_ins = {
        "python3": 'test "$*" = "-m venv $HOME/venv" && mkdir -p ~/venv/bin && cp "$(dirname "$0")/pip" ~/venv/bin/pip',
        "pip": 'printf "%s\\n" "$@" > ~/installed; for f in "$@"; do case $f in /*.txt) test -s "$f" || exit 1;; esac; done',
        "sudo": ":",
        "cloud-init": ":",
    }
    for command, does in stand_ins.items():
        (bin_ / command).write_text(f"#!/bin/bash\n{does}\n")
        (bin_ / command).chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{bin_}:{os.environ['PATH']}"}
    for _ in range(2):
        for line in config["setup_commands"]:
            done = subprocess.run(["bash", "-ec", line], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
    asked = (home / "installed").read_text().split("\n")
    assert f"{home}/screening/constraints.txt" in asked
    assert f"{home}/screening/dist/ecg_screening-0.1.0-py3-none-any.whl[s3]" in asked
    set_by = subprocess.run(
        ["bash", "-c", ". ~/screening/env && echo $RAY_AUTH_MODE $PATH"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert set_by.stdout.startswith(f"token {home}/venv/bin:")
    assert (home / ".bashrc").read_text().count("screening/env") <= 1


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
