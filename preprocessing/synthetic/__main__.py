from pipeline.common.cli import run_main
from preprocessing.synthetic.generate import main

run_main(main)
