"""How a Ray that cannot be had is told: as something to mend, or as something that ended and may be started again."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
import ray

from screening.cluster import cluster
from screening.errors import Interrupted, UserError

GONE = "Timed out waiting for file /x/gcs_server_port"


@pytest.mark.parametrize(
    ("address", "raised", "expected", "said"),
    [
        (None, RuntimeError(GONE), Interrupted, f"Ray on this machine did not start, or ended meanwhile: {GONE}"),
        (None, Exception("a bare one"), Interrupted, "the processes of Ray on this machine ended while they started"),
        (None, ValueError("a bad path\nand more"), UserError, "cannot reach Ray on this machine: a bad path; check"),
        (
            "h:1",
            ConnectionError("nobody there"),
            UserError,
            "cannot reach a Ray cluster at h:1: nobody there; check the address",
        ),
        ("h:1", RuntimeError(), UserError, "cannot reach a Ray cluster at h:1: RuntimeError; check the address"),
    ],
)
def test_a_ray_that_cannot_be_had(
    address: str | None, raised: Exception, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        patch.object(ray, "is_initialized", lambda: False),
        patch.object(ray, "init", side_effect=raised),
        pytest.raises(expected, match=re.escape(said)),
        cluster(address),
    ):
        pass
