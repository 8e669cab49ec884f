"""An archive as MIMIC-IV-ECG lays it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.archive.catalog.made import add_record


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Return an archive laid out as MIMIC-IV-ECG is: a folder a study."""
    archive = tmp_path / "mimic"
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    for subject in range(10000032, 10000042):
        for study in range(3):
            number = f"4{subject % 100:02d}{study}"
            path = f"files/p1000/p{subject}/s{number}/{number}"
            add_record(archive, path, data=b"\1" * (subject % 7 + study))
            lines.append(f"{subject},{number},{number},2180-07-23 08:44:00,{path}")
    (archive / "record_list.csv").write_text("\n".join(lines) + "\n")
    return archive
