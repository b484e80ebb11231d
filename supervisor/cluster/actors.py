"""The registry as an actor of the Ray cluster, and how to reach it. Used in all its parts."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray import serve

from supervisor.cluster.registry import Registry

NAMESPACE = "voice-engine"

DEPLOYMENT = "Replica"
"""The name of the only deployment in the application of a model."""

ActorHandle = Any
"""A handle of Ray: each method has `remote`, whose result can be awaited."""


def registry_of(application: str) -> ActorHandle:
    """The registry of an application; it is started if there is none.

    It needs no core. When its node dies, Ray starts it on another one.
    """
    actor: Any = ray.remote(Registry)
    return actor.options(
        name=_registry_name(application),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
    ).remote()


def end_registry(application: str) -> None:
    """End the registry of an application, if there is one."""
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(_registry_name(application), namespace=NAMESPACE))


def _registry_name(application: str) -> str:
    return f"registry-{application}"


def deployment_of(application: str, model: str) -> ActorHandle:
    """The handle of Ray Serve for the replicas of a model."""
    return serve.get_deployment_handle(DEPLOYMENT, application_name(application, model))


def application_name(application: str, model: str) -> str:
    """The name that Ray Serve has for a model of an application."""
    return f"{application}-{model}"
