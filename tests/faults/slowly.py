"""``screening`` that waits, to be interrupted there, before it plans or publishes (``FAULTS_WAIT_BEFORE``)."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import screening.run.pipeline as pipeline
from screening.cli import program

WAIT_BEFORE = "FAULTS_WAIT_BEFORE"


def waiting(name: str) -> Any:
    """Return the pipeline's function ``name``, with a wait before it that is said on standard error."""
    real = getattr(pipeline, name)

    def slow(*arguments: Any, **named: Any) -> Any:
        print(f"waiting before {name}", file=sys.stderr, flush=True)
        time.sleep(60)
        return real(*arguments, **named)

    return slow


if __name__ == "__main__":
    if name := os.environ.get(WAIT_BEFORE):
        setattr(pipeline, name, waiting(name))
    program()
