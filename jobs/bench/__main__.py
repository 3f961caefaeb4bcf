from jobs.bench.command import main
from jobs.cluster.errors import explain
from pipeline.common.cli import run_main

run_main(main, explain=explain)
