from jobs.cluster.errors import explain
from jobs.train.command import main
from pipeline.common.cli import run_main

run_main(main, explain=explain)
