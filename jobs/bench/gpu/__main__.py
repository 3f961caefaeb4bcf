"""``python -m jobs.bench.gpu``: the same as ``python -m jobs.bench gpu``, on a machine that has little more than torch
and Triton: no Ray, MLflow, DALI, PyAV, boto3 or tyro.
"""

import sys

from jobs.bench.gpu.command import run

sys.exit(run(sys.argv[1:]))
