"""``ray start`` for one more node on the head's host: ``python -P infra/ray_join.py start --address ...``

With the setting that keeps a cluster on 127.0.0.1 (``pipeline.config.ray_local.RAY_BINDING``) Ray starts no second
node: it takes the host for one that cannot have any. Nodes on one host can share an address, so this process, which
only starts the node's own processes, is told otherwise.
"""

from __future__ import annotations

from ray._private import ray_constants, services
from ray.scripts.scripts import main

if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = lambda host: host
    main()
