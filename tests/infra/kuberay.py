"""Schemas of KubeRay's resources: the fields that are of use here, held against its own definitions, and no other.

Those are ``ray-operator/config/crd/bases/ray.io_{rayclusters,rayjobs}.yaml`` of github.com/ray-project/kuberay (a megabyte
each, almost all of it Kubernetes' templates of pods, which Kubernetes' own schema checks here) and
``ray-operator/apis/ray/v1``, from which they are made; read for KubeRay 1.6 and 1.7. These here are stricter: a field that
nobody knows, which Kubernetes would drop without a word, is a fault, and so is leaving out what has a default there and is
a decision here. `submissionMode` is any text there; the modes are those that the operator knows. `authOptions.secretName`
came with 1.6.
"""

from __future__ import annotations

from typing import Any


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}  # int32
TEXTS = {"type": "object", "additionalProperties": TEXT}
TEMPLATE = {"type": "object", "required": ["spec"]}  # of a pod

CLUSTER_SPEC = _closed(
    ("headGroupSpec", "rayVersion"),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    suspend=FLAG,
    enableInTreeAutoscaling=FLAG,
    headServiceAnnotations=TEXTS,
    authOptions=_closed(("mode",), mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    headGroupSpec=_closed(
        ("rayStartParams", "template"),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        enableIngress=FLAG,
        rayStartParams=TEXTS,
        template=TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _closed(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            numOfHosts=NUMBER,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        ),
    },
)
JOB_SPEC = _closed(
    ("entrypoint", "rayClusterSpec"),
    suspend=FLAG,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    metadata=TEXTS,
    jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=NUMBER,
    activeDeadlineSeconds={**NUMBER, "minimum": 1},
    backoffLimit=NUMBER,
    submitterPodTemplate=TEMPLATE,
    rayClusterSpec=CLUSTER_SPEC,
)
METADATA = _closed(
    ("name",),
    name={"type": "string", "maxLength": 47, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    namespace=TEXT,
    labels=TEXTS,
    ownerReferences={
        "type": "array",
        "items": _closed(("apiVersion", "kind", "name", "uid"), apiVersion=TEXT, kind=TEXT, name=TEXT, uid=TEXT),
    },
)
SCHEMAS = {
    kind: _closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )
    for kind, spec in (("RayCluster", CLUSTER_SPEC), ("RayJob", JOB_SPEC))
}


def pod_templates(doc: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return where -> template of every pod that a RayCluster or a RayJob makes."""
    spec = doc["spec"]
    found = {}
    if doc["kind"] == "RayJob":
        if "submitterPodTemplate" in spec:
            found["submitter"] = spec["submitterPodTemplate"]
        spec = spec["rayClusterSpec"]
    found["head"] = spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        found[group["groupName"]] = group["template"]
    return found
