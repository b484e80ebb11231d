"""How many replicas a model is to have. Runs in Ray Serve's controller.

The measure is the time that a new request would wait: the seconds of work that its replicas have
admitted, divided by how many such seconds they get done in a second. So a few long texts count as
many short ones do, and a batching engine as fast as it is.

To obey each report at once would make the number swing, as tests/bench/simulate.py shows. So the
measure is a mean over half a minute, the number at most doubles at a time, small differences count
for nothing, and replicas end only after minutes of less work.
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


TOLERANCE = 0.2
"""Up to which share of the present number a difference counts for nothing."""

GROWTH = 2
"""How many times the present number there are at most after one decision."""


def wanted(backlogs: Mapping[Any, float], speeds: Mapping[Any, float], target: int) -> int:
    """The number of replicas with which nobody waits longer than `TARGET_WAIT`, as estimated.

    `target` is their number now, with those that are starting.
    """
    if not backlogs:
        return target
    # The replicas are alike; the mean speed is that of one that starts.
    known = [speed for speed in speeds.values() if speed > 0]
    speed = sum(known) / len(known) if known else 1.0
    exact = sum(backlogs.values()) / (speed * TARGET_WAIT)
    if abs(exact - target) <= TOLERANCE * target:
        return target
    return max(1, min(GROWTH * target, math.ceil(exact)))


def by_backlog(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The autoscaling policy of Ray Serve for our models."""
    metrics = context.aggregated_metrics or {}
    count = wanted(metrics.get(BACKLOG, {}), metrics.get(SPEED, {}), context.target_num_replicas)
    return count, {}
