"""Entry point for ``ray job submit``: screen a catalog on the cluster that the job runs on.

ray job submit --address http://HEAD:8265 --submission-id screen-2026-11-22 --working-dir . -- \
    python jobs/screen.py --catalog s3://bucket/catalog --out s3://bucket/runs

Takes the options of ``screening run``. ``--address`` is not needed: Ray tells a job where its cluster is.
"""

import sys

from screening.cli import program

if __name__ == "__main__":
    program(["run", *sys.argv[1:]])
