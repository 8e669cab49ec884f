"""Entry point for ``ray job submit``: retrain on the cluster that the job runs on, and register the bundle.

ray job submit --address http://HEAD:8265 --submission-id retrain-2026-11 --working-dir . -- \
    python jobs/retrain.py --catalog s3://bucket/catalog --workers 4 --state /mnt/shared/screening

Takes the options of ``screening train``. ``--state`` must be a folder that every machine of the cluster mounts;
``--address`` is not needed: Ray tells a job where its cluster is.
"""

import sys

from screening.cli import program

if __name__ == "__main__":
    program(["train", *sys.argv[1:]])
