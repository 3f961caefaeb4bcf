"""Command lines. The only room that imports ray."""

import os

from pipeline.config.stack import ray_authentication

# Here, because Ray reads these when it is imported, and every module of this package may import it first.
os.environ.update(ray_authentication())
