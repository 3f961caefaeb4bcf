"""``python -m jobs.submit``: any job of this project, run on a cluster by one command."""

from jobs.submit.command import main
from pipeline.common.cli import run_main

run_main(main)
