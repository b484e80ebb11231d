"""The models of a cluster as applications of Ray Serve, one for each. Used to deploy them.

Each is an application of its own, so that one can be changed without the others. KubeRay names
`supervisor.cluster.application:build` in its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from supervisor.cluster.actors import DEPLOYMENT, application_name
from supervisor.cluster.config import ClusterConfig, Replicas, specs
from supervisor.cluster.messages import ReplicaSpec
from supervisor.cluster.replica import Replica, settings_of
from supervisor.memory.limits import MB

_ONGOING = 1000
"""Requests that a replica takes before Ray Serve holds them back; it refuses by itself long before,
and says when to come again."""

_WAIT_LOOP = 0.5
"""Seconds between two looks whether a replica that ends has finished its requests."""


def build(arguments: Mapping[str, Any]) -> Application:
    """The application of one model. `arguments` are `model`, its name, and the cluster's file."""
    config = ClusterConfig.model_validate(
        {name: value for name, value in arguments.items() if name != "model"}
    )
    wanted = arguments.get("model")
    for spec, replicas in specs(config):
        if spec.model == wanted:
            return bind(spec, replicas)
    names = ", ".join(spec.model for spec, _ in specs(config))
    raise ValueError(f"model: there is no {wanted!r}; it is one of {names}")


def bind(spec: ReplicaSpec, replicas: Replicas) -> Application:
    """The application of a model: its replicas, and what each gets of its machine."""
    settings = settings_of(spec)
    scaling: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.max > replicas.min:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "policy": {"policy_function": "supervisor.cluster.scaling:by_backlog"},
                # Replicas tell their backlog every ten seconds.
                "look_back_period_s": 30.0,
                "upscale_delay_s": 3.0,
                "downscale_delay_s": 300.0,
            }
        }
    deployment: Any = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": spec.cpus, "memory": spec.memory_mb * MB},
        max_ongoing_requests=_ONGOING,
        # A replica that ends, or makes way for a new version, finishes what it has.
        graceful_shutdown_timeout_s=settings.request_timeout + settings.drain_timeout,
        graceful_shutdown_wait_loop_s=_WAIT_LOOP,
        max_surge_percent=100,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        request_router_config={"request_router_class": "supervisor.cluster.router:VoiceRouter"},
        **scaling,
    )
    application: Application = deployment.bind(spec)
    return application


def serve_file(config: ClusterConfig) -> dict[str, Any]:
    """The applications as the file that Ray Serve and KubeRay read (`serveConfigV2`)."""
    given = config.model_dump(mode="json", exclude_defaults=True)
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": application_name(spec.application, spec.model),
                "route_prefix": None,
                "import_path": "supervisor.cluster.application:build",
                "args": {"model": spec.model, **given},
            }
            for spec, _ in specs(config)
        ],
    }
