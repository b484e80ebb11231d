"""The registry as an actor of the Ray cluster, and how to reach it. Used in all its parts."""

from __future__ import annotations

from typing import Any

import ray

from supervisor.cluster.registry import Registry

NAMESPACE = "voice-engine"

ActorHandle = Any
"""A handle of Ray: each method has `remote`, whose result can be awaited."""


def registry_of(application: str) -> ActorHandle:
    """The registry of an application; it is started if there is none.

    It needs no core. When its node dies, Ray starts it on another one.
    """
    actor: Any = ray.remote(Registry)
    return actor.options(
        name=f"registry-{application}",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
    ).remote()


def application_name(application: str, model: str) -> str:
    """The name that Ray Serve has for a model of an application."""
    return f"{application}-{model}"
