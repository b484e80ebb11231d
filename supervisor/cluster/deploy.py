"""Start, change and end the application of a cluster. Runs in `voice-engine cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import ray
from ray import serve
from ray.serve import RunTarget, run_many
from ray.serve.schema import ApplicationStatus

from supervisor.cluster.actors import (
    DEPLOYMENT,
    application_name,
    end_registry,
    registry_of,
)
from supervisor.cluster.application import bind
from supervisor.cluster.config import ClusterConfig, specs
from supervisor.cluster.messages import ReplicaReport


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """The state of a model on the cluster. `replicas` has their number by state."""

    model: str
    status: str
    message: str
    replicas: dict[str, int]

    @property
    def running(self) -> bool:
        """Whether it is as its file wants it."""
        return self.status == ApplicationStatus.RUNNING.value

    @property
    def failed(self) -> bool:
        """Whether it will not run as it is."""
        return self.status == ApplicationStatus.DEPLOY_FAILED.value


def up(config: ClusterConfig) -> None:
    """Deploy the models of `config`; returns at once. Models that it no longer has are ended."""
    serve.start(proxy_location="Disabled")
    wanted = specs(config)
    targets = [
        RunTarget(
            bind(spec, replicas),
            name=application_name(spec.application, spec.model),
            route_prefix=None,
        )
        for spec, replicas in wanted
    ]
    run_many(
        targets,
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    ray.get(registry_of(config.application).describe.remote([spec for spec, _ in wanted]))
    names = {spec.model for spec, _ in wanted}
    for model in deployed(config.application):
        if model.model not in names:
            serve.delete(application_name(config.application, model.model), _blocking=False)


def deployed(application: str) -> Iterator[DeployedModel]:
    """The models of an application that are on the cluster."""
    prefix = application_name(application, "")
    for name, found in sorted(serve.status().applications.items()):
        if not name.startswith(prefix):
            continue
        deployment = found.deployments.get(DEPLOYMENT)
        yield DeployedModel(
            name.removeprefix(prefix),
            found.status.value,
            found.message or (deployment.message if deployment else ""),
            cast(dict[str, int], dict(deployment.replica_states)) if deployment else {},
        )


def reports(application: str) -> list[ReplicaReport]:
    """What the replicas tell of themselves."""
    found: list[ReplicaReport] = ray.get(registry_of(application).reports.remote())
    return found


def down(application: str) -> list[str]:
    """End the application; returns the models that it had. Replicas finish what they have."""
    models = [model.model for model in deployed(application)]
    for model in models:
        serve.delete(application_name(application, model), _blocking=False)
    for model in models:
        serve.delete(application_name(application, model))
    end_registry(application)
    return models
