"""ops/kubernetes/: valid for Kubernetes and KubeRay, locked down, and its parts fit each other."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from supervisor.cluster.config import ClusterConfig, specs
from supervisor.settings import Settings
from tests.support.service import ROOT

FOLDER = ROOT / "ops" / "kubernetes"
_VERSION = "1.32"
Document = dict[str, Any]

_TEMPLATE = {"type": "object", "required": ["metadata", "spec"]}
_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
_RAY_SERVICE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["serveConfigV2", "rayClusterConfig"],
            "properties": {
                "serveConfigV2": {"type": "string"},
                "rayClusterDeletionDelaySeconds": {"type": "integer", "minimum": 0},
                "upgradeStrategy": {"properties": {"type": {"enum": ["NewCluster", "None"]}}},
                "rayClusterConfig": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "autoscalerOptions": {
                            "additionalProperties": False,
                            "properties": {
                                "version": {"enum": ["v1", "v2"]},
                                "idleTimeoutSeconds": {"type": "integer"},
                                "resources": {"type": "object"},
                                "securityContext": {"type": "object"},
                            },
                        },
                        "headGroupSpec": {
                            "additionalProperties": False,
                            "required": ["template"],
                            "properties": {"rayStartParams": _PARAMS, "template": _TEMPLATE},
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "additionalProperties": False,
                                "required": ["groupName", "maxReplicas", "minReplicas", "template"],
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": {"type": "integer"},
                                    "minReplicas": {"type": "integer", "minimum": 0},
                                    "maxReplicas": {"type": "integer", "minimum": 0},
                                    "rayStartParams": _PARAMS,
                                    "template": _TEMPLATE,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What KubeRay takes, as far as we use it: a misspelt name is an error here."""


def _documents(*names: str) -> list[Document]:
    files = [FOLDER / name for name in names] or sorted(FOLDER.glob("*.yaml"))
    return [
        document
        for file in files
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text())
    ]


DOCUMENTS = _documents()
(CLUSTER,) = (each for each in DOCUMENTS if each["kind"] == "RayService")
RAY = CLUSTER["spec"]["rayClusterConfig"]
SERVE = yaml.safe_load(CLUSTER["spec"]["serveConfigV2"])
ARGUMENTS = {name: arg for name, arg in SERVE["applications"][0]["args"].items() if name != "model"}
(GROUP,) = RAY["workerGroupSpecs"]
TEMPLATES: dict[str, Document] = {
    "head": RAY["headGroupSpec"]["template"],
    "replicas": GROUP["template"],
    **{
        each["metadata"]["name"]: each["spec"]["template"]
        for each in DOCUMENTS
        if each["kind"] in {"Deployment", "Job"}
    },
}
SERVING = ("head", "replicas", "voice-engine-front")


def _named(kind: str, name: str) -> Document:
    (found,) = (
        each for each in DOCUMENTS if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def _container(template: Document) -> Document:
    (container,) = template["spec"]["containers"]
    return dict(container)


def _id(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def _bytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", text).groups()  # type: ignore[union-attr]
    return int(number) * 1024.0 ** (" KMG".index(unit[0]))


# Valid


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each is not CLUSTER], ids=_id)
def test_it_is_what_kubernetes_takes(document: Document) -> None:
    kubernetes_validate.validate(document, _VERSION, strict=True)


@pytest.mark.parametrize("name", ["head", "replicas"])
def test_the_pods_of_ray_are_what_kubernetes_takes(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **TEMPLATES[name]}
    kubernetes_validate.validate(pod, _VERSION, strict=True)


def test_the_cluster_is_what_kuberay_takes() -> None:
    jsonschema.validate(CLUSTER, _RAY_SERVICE)


def test_the_head_has_the_ports_that_kuberay_looks_for_by_name() -> None:
    names = {port["name"] for port in _container(TEMPLATES["head"])["ports"]}
    assert names == {"gcs", "dashboard", "metrics", "serve"}


def test_the_models_are_what_ray_serve_takes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = pytest.importorskip("ray.serve.schema")
    parsed = schema.ServeDeploySchema.model_validate(SERVE)
    config = ClusterConfig.model_validate(ARGUMENTS)
    assert [each.args for each in parsed.applications] == [
        {**ARGUMENTS, "model": spec.model} for spec, _ in specs(config)
    ]
    for application in parsed.applications:
        assert application.name == f"voice-engine-{application.args['model']}"
        assert application.route_prefix is None
        assert application.import_path == "supervisor.cluster.application:build"


def test_everything_in_the_folder_is_used_or_said_not_to_be() -> None:
    resources = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    there = {each.name for each in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert there - set(resources) == {"secret.example.yaml", "fill-models.yaml"}
    assert set(resources) <= there


def test_the_patches_for_redis_are_for_what_is_there() -> None:
    for name in ("cluster.yaml", "network.yaml"):
        (patch,) = _documents(f"redis/{name}")
        _named(patch["kind"], patch["metadata"]["name"])
    (network,) = _documents("redis/network.yaml")
    kubernetes_validate.validate(
        {
            **network,
            "spec": {**_named("NetworkPolicy", "voice-engine-head")["spec"], **network["spec"]},
        },
        _VERSION,
        strict=True,
    )
    ports = [port["port"] for rule in network["spec"]["egress"] for port in rule["ports"]]
    assert ports == [443, 6443, 6379]


# Locked down


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_pod_may_do_no_more_than_it_must(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"--uid {spec['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not any("hostPath" in volume for volume in spec["volumes"])
    assert name == "head" or spec["automountServiceAccountToken"] is False
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_so_may_the_autoscaler() -> None:
    context = _container(TEMPLATES["head"])["securityContext"]
    assert RAY["autoscalerOptions"]["securityContext"] == context


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_container_has_its_resources(name: str) -> None:
    resources = _container(TEMPLATES[name])["resources"]
    for part in ("requests", "limits"):
        assert resources[part].keys() == {"cpu", "memory", "ephemeral-storage"}
    assert _bytes(resources["requests"]["memory"]) <= _bytes(resources["limits"]["memory"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_written_to_has_a_volume_with_a_limit(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    mounts = {
        each["mountPath"]: each["name"] for each in _container(TEMPLATES[name])["volumeMounts"]
    }
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert set(mounts.values()) == volumes.keys()
    assert "/tmp" in mounts
    if name in SERVING:
        assert {"/dev/shm", "/data"} <= mounts.keys()
    for volume in volumes.values():
        assert "persistentVolumeClaim" in volume or "sizeLimit" in volume["emptyDir"]


def test_no_secret_is_real() -> None:
    values = [
        value for each in _documents("secret.example.yaml") for value in each["stringData"].values()
    ]
    assert len(values) == 4
    assert all(set(re.findall(r"[^:,]*$", value)) >= {"CHANGE-ME"} for value in values)


# What belongs together


def _selected(selector: Document) -> list[str]:
    wanted = selector.get("matchLabels", selector).items()
    return [
        name
        for name, template in TEMPLATES.items()
        if wanted <= template["metadata"]["labels"].items()
    ]


def _selectors() -> Iterator[tuple[str, list[str]]]:
    yield "Service", _selected(_named("Service", "voice-engine")["spec"]["selector"])
    for each in DOCUMENTS:
        if each["kind"] in {"PodDisruptionBudget", "Deployment"}:
            yield _id(each), _selected(each["spec"]["selector"])
        if each["kind"] == "NetworkPolicy":
            yield _id(each), _selected(each["spec"]["podSelector"])


def test_selectors_select_the_right_pods() -> None:
    front = ["voice-engine-front"]
    assert dict(_selectors()) == {
        "Service": front,
        "Deployment-voice-engine-front": front,
        "PodDisruptionBudget-voice-engine-front": front,
        "PodDisruptionBudget-voice-engine-replicas": ["replicas"],
        "NetworkPolicy-voice-engine": list(SERVING),
        "NetworkPolicy-voice-engine-front": front,
        "NetworkPolicy-voice-engine-head": ["head"],
    }


@pytest.mark.parametrize("name", ["replicas", "voice-engine-front"])
def test_pods_are_spread_among_their_own(name: str) -> None:
    (spread,) = TEMPLATES[name]["spec"]["topologySpreadConstraints"]
    assert _selected(spread["labelSelector"]) == [name]


@pytest.mark.parametrize("name", SERVING)
def test_a_container_is_probed(name: str) -> None:
    container = _container(TEMPLATES[name])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"].startswith("/")
        assert container[probe].get("failureThreshold", 3) >= 2
    if name == "voice-engine-front":
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}


def test_the_ports_of_the_front_are_one_port() -> None:
    front = _container(TEMPLATES["voice-engine-front"])
    (service,) = _named("Service", "voice-engine")["spec"]["ports"]
    (rule,) = _named("NetworkPolicy", "voice-engine-front")["spec"]["ingress"]
    assert front["ports"] == [{"name": service["targetPort"], "containerPort": 8000}]
    assert front["env"] == [{"name": "PORT", "value": "8000"}]
    assert [port["port"] for port in rule["ports"]] == [8000]


def test_fronts_know_the_head_by_the_name_that_kuberay_gives() -> None:
    args = _container(TEMPLATES["voice-engine-front"])["args"]
    ports = {port["name"]: port["containerPort"] for port in _container(TEMPLATES["head"])["ports"]}
    assert args == [
        *("voice-engine", "serve", "--cluster"),
        f"{CLUSTER['metadata']['name']}-head-svc:{ports['gcs']}",
    ]


def test_the_fronts_are_scaled_by_the_autoscaler_alone() -> None:
    scaler = _named("HorizontalPodAutoscaler", "voice-engine-front")["spec"]
    front = _named("Deployment", scaler["scaleTargetRef"]["name"])
    assert scaler["scaleTargetRef"]["kind"] == front["kind"]
    assert "replicas" not in front["spec"]
    assert scaler["minReplicas"] >= 2


def test_pods_have_the_time_to_drain() -> None:
    drain = Settings.model_fields["drain_timeout"].default
    settings = _named("ConfigMap", "voice-engine-settings")["data"]
    assert float(settings["VOICE_ENGINE_DRAIN_TIMEOUT"]) == drain
    for name in SERVING:
        spec = TEMPLATES[name]["spec"]
        stop = _container(TEMPLATES[name]).get("lifecycle", {}).get("preStop")
        pause = float(stop["exec"]["command"][1]) if stop else 0.0
        assert spec["terminationGracePeriodSeconds"] >= pause + drain + 5


def test_settings_are_settings_of_the_service() -> None:
    known = {name for names in Settings.variables().values() for name in names}
    data = _named("ConfigMap", "voice-engine-settings")["data"]
    mine = {name for name in data if name.startswith("VOICE_ENGINE_")}
    assert mine <= known
    secret = _named("Secret", "voice-engine-keys")["stringData"]
    assert secret.keys() <= known


def test_the_replicas_fit_into_the_pods() -> None:
    models = specs(ClusterConfig.model_validate(ARGUMENTS))
    cpus = int(GROUP["rayStartParams"]["num-cpus"])
    limits = _container(TEMPLATES["replicas"])["resources"]["limits"]
    assert int(limits["cpu"]) == cpus
    for bound, pods in (("min", "minReplicas"), ("max", "maxReplicas")):
        needed = sum(getattr(replicas, bound) * spec.cpus for spec, replicas in models)
        assert GROUP[pods] == math.ceil(needed / cpus)
    each = sum(spec.memory_mb for spec, _ in models)  # the fullest pod has one of each
    assert each + 1200 <= _bytes(limits["memory"]) / 1024**2  # Ray's own, and shared memory
    assert RAY["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_weights_are_where_the_models_look_for_them() -> None:
    folder = ARGUMENTS["settings"]["models_dir"]
    assert _named("ConfigMap", "voice-engine-settings")["data"]["VOICE_ENGINE_MODELS_DIR"] == folder
    mounts = {each["mountPath"]: each for each in _container(TEMPLATES["replicas"])["volumeMounts"]}
    assert mounts[folder]["readOnly"] is True
    claim = _named("PersistentVolumeClaim", "voice-engine-models")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("replicas", "voice-engine-models"):
        (volume,) = (v for v in TEMPLATES[name]["spec"]["volumes"] if v["name"] == "models")
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_only_pods_of_the_service_reach_the_ports_of_ray() -> None:
    for each in DOCUMENTS:
        if each["kind"] != "NetworkPolicy":
            continue
        for rule in each["spec"].get("ingress", []):
            ours = {"podSelector": each["spec"]["podSelector"]}
            if rule["from"] != [ours]:
                assert {port["port"] for port in rule["ports"]} <= {8000, 8265}
                assert "podSelector" in rule["from"][0] or rule["ports"][0]["port"] == 8000


def test_all_run_one_image_of_this_version_and_the_ray_that_is_installed() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = {_container(template)["image"] for template in TEMPLATES.values()}
    assert images == {f"voice-engine:{version[1]}"}
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if pinned:
        assert RAY["rayVersion"] == pinned[1]


def test_the_guide_names_each_file() -> None:
    guide = (FOLDER / "README.md").read_text()
    files = {each.name for each in FOLDER.glob("*.yaml")}
    assert [name for name in files if f"`{name}`" not in guide] == []
