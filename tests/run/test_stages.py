from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from screening.archive.reader import ArchiveReader
from screening.attribution.donors import DonorSet
from screening.contract import (
    CARRIED_COLUMNS,
    EXPLANATION_COLUMNS,
    OPERATORS,
    REASONS,
    RESULT_COLUMNS,
    TERRITORIES,
    Reason,
    importance_column,
    result_schema,
)
from screening.model.bundle import Bundle
from screening.recording import Recording, Rejected
from screening.run import stages
from screening.run.explain import Explainer
from screening.run.sealed import results_bytes
from screening.run.stages import Scorer, decode_shard
from screening.signal.preprocess import preprocess
from tests.bundles import make_bundle

IDENTITY = {
    "model_name": "tiny",
    "model_version": "1",
    "bundle_sha256": "b",
    "input_contract_sha256": "i",
    "run_id": "r",
}
TOLERANCE = 2e-5
"""Largest difference of a logit or importance between two padded batch shapes: float32 sums in another order."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", threshold=0.0)


@pytest.fixture(scope="module")
def outcomes(ptbxl: Path) -> list[Recording | Rejected]:
    reader = ArchiveReader(str(ptbxl))
    names = (ptbxl / "RECORDS").read_text().split()[:20]
    found = [reader.read(f"{name}.hea", name) for name in names]
    found[3] = Rejected(names[3], Reason.MISSING_UNITS, "no unit")
    return found


def planned(outcomes: list[Recording | Rejected]) -> pa.Table:
    columns = {name: pa.nulls(len(outcomes), result_schema().field(name).type) for name in CARRIED_COLUMNS}
    columns["record_id"] = pa.array([outcome.record_id for outcome in outcomes])
    columns["patient_key"] = pa.array([f"patient of {outcome.record_id}" for outcome in outcomes])
    return pa.table(columns)


@pytest.fixture(scope="module")
def donors(bundle: Bundle, outcomes: list[Recording | Rejected]) -> DonorSet:
    rows = decode_shard(planned(outcomes[:3]), outcomes[:3], bundle.preprocessing)
    signals = np.stack([np.asarray(value.values) for value in rows["signal"]]).reshape(3, 12, -1)
    return DonorSet(signals, tuple(rows["record_id"].to_pylist()), tuple(rows["patient_key"].to_pylist()))


def results(
    outcomes: list[Recording | Rejected],
    bundle: Bundle,
    donors: DonorSet,
    batch_size: int = 32,
    attribution: str = "all",
    operators: Sequence[str] = tuple(OPERATORS),
) -> pa.Table:
    explainer = Explainer(
        bundle, donors, operators=operators, most=2, target_se=0.0, device="cpu", batch_size=batch_size
    )
    scorer = Scorer(bundle, explainer, identity=IDENTITY, attribution=attribution, device="cpu", batch_size=batch_size)
    return scorer.score(decode_shard(planned(outcomes), outcomes, bundle.preprocessing))


def test_threads_of_the_linear_algebra_change_no_byte(outcomes: list[Recording | Rejected], bundle: Bundle) -> None:
    """OpenBLAS cuts a sum in other places for each number of threads; a machine's, or a user's, number must not show."""
    tables = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads, user_api="blas"):
            tables.append(decode_shard(planned(outcomes), outcomes, bundle.preprocessing))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_one_row_a_record_with_plain_columns(
    outcomes: list[Recording | Rejected], bundle: Bundle, donors: DonorSet, tmp_path: Path
) -> None:
    table = results(outcomes, bundle, donors)
    assert table.column_names == [name for name, _, _ in RESULT_COLUMNS]
    assert table["record_id"].to_pylist() == [outcome.record_id for outcome in outcomes]
    assert not any(pa.types.is_nested(field.type) for field in table.schema)
    rejected = table.slice(3, 1).to_pylist()[0]
    assert (rejected["status"], rejected["reason"], rejected["detail"]) == ("rejected", "missing_units", "no unit")
    assert rejected["logit"] is rejected["flagged"] is rejected["importance_V2"] is None
    for row in table.to_pylist():
        assert (row["status"] == "rejected") == (row["reason"] is not None) == (row["logit"] is None)
        assert row["reason"] is None or row["reason"] in set(REASONS)
        assert row["status"] == "rejected" or len(row["record_sha256"]) == 64
    (tmp_path / "part.parquet").write_bytes(results_bytes(table, footer={"screening": "{}"}))
    assert pq.read_table(tmp_path / "part.parquet").equals(table)


def test_a_record_scores_the_same_alone_in_any_batch_and_order(
    outcomes: list[Recording | Rejected], bundle: Bundle, donors: DonorSet
) -> None:
    """Score and attribution by every operator: the same bits in one padded batch shape, to `TOLERANCE` in another."""
    columns = ["logit", "probability", *(name for name, kind, _ in EXPLANATION_COLUMNS if kind != "string")]

    def by_id(table: pa.Table) -> dict[str, np.ndarray]:
        return {
            row["record_id"]: np.array([np.nan if row[c] is None else row[c] for c in columns])
            for row in table.to_pylist()
        }

    whole = by_id(results(outcomes, bundle, donors))
    assert np.isnan(whole[outcomes[3].record_id]).all()
    assert np.isfinite(whole[outcomes[4].record_id]).all()
    backwards = by_id(results(outcomes[::-1], bundle, donors))
    for name, values in whole.items():
        np.testing.assert_array_equal(backwards[name], values)  # one padded batch shape: the same bits
    for batch_size in (1, 7, 64):
        other = by_id(results(outcomes, bundle, donors, batch_size=batch_size))
        for name, values in whole.items():
            np.testing.assert_allclose(other[name], values, atol=TOLERANCE, rtol=0)
    for outcome in outcomes:
        alone = by_id(results([outcome], bundle, donors))
        np.testing.assert_array_equal(alone[outcome.record_id], whole[outcome.record_id])


def test_flagged_by_default_means_only_flagged_are_explained(
    outcomes: list[Recording | Rejected], bundle: Bundle, donors: DonorSet
) -> None:
    found = results(outcomes, bundle, donors)["probability"].to_pylist()
    ranked = sorted(value for value in found if value is not None)
    # Between two of them, as a bundle's threshold is: the columns are rounded, what is flagged is not.
    middle = (ranked[len(ranked) // 2 - 1] + ranked[len(ranked) // 2]) / 2
    rows = results(outcomes, replace(bundle, threshold=middle), donors, attribution="flagged").to_pylist()
    flagged = [row for row in rows if row["flagged"]]
    assert 0 < len(flagged) < len(rows) - 1
    for row in rows:
        assert (row["importance_V2"] is not None) == (row["territory_septal"] is not None) == bool(row["flagged"])
        assert row["flagged"] is None or row["flagged"] == (row["probability"] >= middle)


def test_only_the_operators_that_are_asked_for_are_computed(
    outcomes: list[Recording | Rejected], bundle: Bundle, donors: DonorSet
) -> None:
    table = results(outcomes, bundle, donors, operators=("territory",))
    row = table.slice(4, 1).to_pylist()[0]
    filled = {name for name, _, _ in EXPLANATION_COLUMNS if row[name] is not None} - {"leading_territory"}
    columns = {importance_column("territory", wall) for wall in TERRITORIES}
    assert filled == {*columns, *(f"territory_se_{wall}" for wall in TERRITORIES), "territory_donors"}
    leading = max(TERRITORIES, key=lambda wall: row[f"territory_{wall}"])
    assert row["leading_territory"] == (leading if row[f"territory_{leading}"] > 0 else None)


def test_a_recording_that_is_too_short_is_a_row_with_its_length(
    bundle: Bundle, outcomes: list[Recording | Rejected]
) -> None:
    first = outcomes[0]
    assert isinstance(first, Recording)
    short = Recording("short", first.signal_mV[:, :1000], 500.0, "0" * 64, "wfdb-16", "header")
    row = decode_shard(planned([short, first]), [short, first], bundle.preprocessing).to_pylist()[0]
    assert row["reason"] == "too_short"
    assert row["detail"].startswith("2.0 s, and at least ")


def test_a_recording_that_the_filters_fail_on_is_a_row_and_costs_no_other(
    bundle: Bundle, outcomes: list[Recording | Rejected], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_on_the_third(signals: np.ndarray, *settings: Any) -> np.ndarray:
        if any(np.array_equal(signal, outcomes[2].signal_mV) for signal in signals):  # type: ignore[union-attr]
            raise FloatingPointError("of Mueller")
        return preprocess(signals, *settings)

    expected = decode_shard(planned(outcomes[:4]), outcomes[:4], bundle.preprocessing)
    monkeypatch.setattr(stages, "preprocess", fails_on_the_third)
    found = decode_shard(planned(outcomes[:4]), outcomes[:4], bundle.preprocessing)
    assert found["reason"].to_pylist() == [None, None, "undecodable", "missing_units"]
    assert found["detail"][2].as_py() == "the filters failed: FloatingPointError"
    assert found["signal"].to_pylist()[:2] == expected["signal"].to_pylist()[:2]


def test_outcomes_are_decoded_as_they_come_and_must_be_as_many_as_planned(
    bundle: Bundle, outcomes: list[Recording | Rejected]
) -> None:
    with pytest.raises(ValueError, match="19 outcomes for 20 planned records"):
        decode_shard(planned(outcomes), islice(outcomes, 19), bundle.preprocessing)
