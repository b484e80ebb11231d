"""What the workers of one model are made of and held to. In the front."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory.recycling import Policy
from supervisor.workers.launch import LaunchConfig


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What a pool is made of; `reload` changes it."""

    model: str
    engine: str
    profile: str
    size: int
    start_method: str
    launch: LaunchConfig
    policy: Policy
