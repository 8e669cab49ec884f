"""Store the present forms; those of earlier versions stay as they are: ``python -m tests.schemas``."""

from __future__ import annotations

import json
import shutil

from tests.schemas.forms import report_form, results_form, store_run
from tests.schemas.test_compatibility import REPORT, RESULTS, RUN

if __name__ == "__main__":
    RESULTS.write_text(json.dumps(results_form(), indent=1) + "\n")
    REPORT.write_text(json.dumps(report_form(), indent=1) + "\n")
    if not RUN.exists():
        store_run(RUN)
        shutil.rmtree(RUN / "catalog")
