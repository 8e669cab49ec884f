from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.benchmarks.capacity import Node, Parts, fewest, lines, predict
from tests.benchmarks.contenders import PROJECT

PARTS = Parts(
    read_s=0.001,
    decode_s=0.001,
    score_s=0.002,
    write_s=0.0,
    attribute_s=0.1,
    efficiency=0.5,
    start_s=60,
    plan_s=1e-5,
    driver_s=0.01,
    record_bytes=100_000,
)
CORES = Node("four cores", 4, 0, 500, 2.0)
GPU = Node("a GPU", 4, 1, 500, 10.0)


def test_cores_set_the_rate_and_start_and_planning_come_on_top() -> None:
    # 4 cores at half their time do 2 core seconds a second, and a record takes 4 ms of them: 500 records/s.
    found = predict(PARTS, CORES, nodes=1, records=1_000_000, explained=0.0, shard_records=256)
    assert (found.rate, found.limit) == (pytest.approx(500), "core")
    assert found.hours == pytest.approx((60 + 10 + 2000) / 3600)
    assert found.price == pytest.approx(2 * found.hours)

    # One in ten explained: 4 + 10 ms.
    explained = predict(PARTS, CORES, nodes=2, records=1_000_000, explained=0.1, shard_records=256)
    assert explained.rate == pytest.approx(2 * 500 * 4 / 14)


@pytest.mark.parametrize(
    ("changed", "node", "rate", "limit"),
    [
        ({}, replace(CORES, read_MB_s=10), 100, "disk"),
        ({"driver_s": 1.0}, CORES, 256, "driver"),
        ({"gpu_score_s": 0.001}, GPU, 500, "GPU"),  # 1 GPU at half its time; the cores, reading only, do 1,000
        ({"gpu_score_s": 0.0001}, GPU, 1000, "core"),
    ],
)
def test_the_slowest_flow_is_the_limit(changed: dict[str, float], node: Node, rate: float, limit: str) -> None:
    found = predict(replace(PARTS, **changed), node, nodes=1, records=1000, explained=0.0, shard_records=256)
    assert (found.rate, found.limit) == (pytest.approx(rate), limit)


def test_the_fewest_nodes_are_enough_and_one_less_is_not() -> None:
    size = {"records": 10_000_000, "explained": 0.15, "shard_records": 256}
    found = fewest(PARTS, CORES, hours=2, **size)  # type: ignore[arg-type]
    assert found.hours <= 2 < predict(PARTS, CORES, nodes=found.nodes - 1, **size).hours  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use larger shards"):
        fewest(replace(PARTS, driver_s=1.0), CORES, hours=2, **size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no GPU was measured"):
        fewest(PARTS, GPU, hours=2, **size)  # type: ignore[arg-type]


def test_the_table_of_the_page_is_that_of_its_parts() -> None:
    page = (PROJECT / "docs" / "capacity.md").read_text()
    stated = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert stated
    assert "\n".join(lines(Parts(**json.loads(stated[1])))) in page
