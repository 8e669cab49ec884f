"""Entry point for ``ray job submit``: write the prevalence report on the cluster that the job runs on.

ray job submit --address http://HEAD:8265 --submission-id report-2026-11-23 --working-dir . -- \
    python jobs/report.py --runs s3://bucket/runs --catalog s3://bucket/catalog --out s3://bucket/report

Takes the options of ``screening report``. It reads counts, not signals, so that one node is enough.
"""

import sys

from screening.cli import program

if __name__ == "__main__":
    program(["report", *sys.argv[1:]])
