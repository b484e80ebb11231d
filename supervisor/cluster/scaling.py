"""How many replicas a model is to have. Runs in Ray Serve's controller.

The measure is the time that a new request would wait: the seconds of work that its replicas have
admitted, divided by how many such seconds they get done in a second. So a few long texts count as
many short ones do, and a batching engine as fast as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

BACKLOG = "backlog_s"
"""Metric of a replica: seconds of admitted work, as if one by one."""

SPEED = "speed"
"""Metric of a replica: how many of them it gets done in a second."""

TARGET_WAIT = 2.0
"""Seconds of work for each unit of speed that replicas should have at most."""


def wanted(backlogs: Mapping[Any, float], speeds: Mapping[Any, float], current: int) -> int:
    """The number of replicas with which nobody waits longer than `TARGET_WAIT`, as estimated."""
    if not backlogs:
        return current
    # The replicas are alike; the mean speed is that of one that starts.
    known = [speed for speed in speeds.values() if speed > 0]
    speed = sum(known) / len(known) if known else 1.0
    return max(1, math.ceil(sum(backlogs.values()) / (speed * TARGET_WAIT)))


def by_backlog(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The autoscaling policy of Ray Serve for our models."""
    metrics = context.aggregated_metrics or {}
    count = wanted(metrics.get(BACKLOG, {}), metrics.get(SPEED, {}), context.target_num_replicas)
    return count, {}
