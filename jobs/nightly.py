"""Entry point for ``ray job submit``: the night's work on the cluster that the job runs on.

ray job submit --address http://HEAD:8265 --submission-id "$(screening nightly --settings nightly.yaml --id)" \
    --working-dir . -- python jobs/nightly.py --settings nightly.yaml

Takes the options of ``screening nightly``. The id names the night's date, model and attempt, so that Ray refuses a night
that was submitted before; ``--address`` is not needed: Ray tells a job where its cluster is.
"""

import sys

from screening.cli import program

if __name__ == "__main__":
    program(["nightly", *sys.argv[1:]])
