"""Nodes of a Ray cluster on this machine: each has a raylet and workers of its own.

A program of its own, so that tests do not import Ray. It prints the address of the head and the pid
of each raylet as JSON lines, adds a node for each line that it reads, and ends them all when there
is nothing to read any more.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

STORE_MB = 100


def main() -> None:
    """Start as many nodes as the argument says, the head among them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {
        "num_cpus": 4,  # as many as the tests' replicas ask for; they mostly wait
        "object_store_memory": STORE_MB << 20,
        "include_dashboard": False,
    }
    cluster: Any = Cluster(initialize_head=True, head_node_args=options)
    _tell(cluster, cluster.head_node)
    for _ in range(int(sys.argv[1]) - 1):
        _tell(cluster, cluster.add_node(**options))
    for _ in sys.stdin:
        _tell(cluster, cluster.add_node(**options))
    cluster.shutdown()


def _tell(cluster: Any, node: Any) -> None:
    def pid(name: str) -> int | None:
        found = node.all_processes.get(name)
        return found[0].process.pid if found else None

    told = {"address": cluster.address, "raylet": pid("raylet")}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
