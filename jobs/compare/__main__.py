from jobs.compare.command import main
from pipeline.common.cli import run_main

run_main(main)
