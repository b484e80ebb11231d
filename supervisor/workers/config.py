"""The configuration of a pool of workers. Runs in the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ipc.engines import EngineSpec
from supervisor.memory.recycling import Policy
from supervisor.workers.launch import LaunchConfig

StartMethod = Literal["fork", "spawn"]


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The workers of one model: how many, how they start, how they are replaced.

    `limit_setting` is the name of the setting for their memory limits, used in messages; `capacity`
    is how many requests each is planned to serve at once; `notes` are for operators, each by the
    name of its event in the log. After `idle` seconds without a request the model is unloaded; 0 =
    never. With `on_demand` it is not loaded before the first request; if it has a `claim`, it then
    waits for so many MB of the memory that such models share.
    """

    model: str
    engine: EngineSpec
    size: int
    start_method: StartMethod
    launch: LaunchConfig
    policy: Policy
    limit_setting: str
    capacity: int = 1
    notes: Mapping[str, str] = field(default_factory=dict)
    idle: float = 0.0
    on_demand: bool = False
    claim: int = 0
