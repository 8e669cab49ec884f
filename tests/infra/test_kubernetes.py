"""infra/kubernetes: resolved as kustomize does, held against schemas, and against the rules that its README states.

Every rule is tested on manifests that break it, too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

import screening
from screening.nightly.settings import NightlySettings
from screening.settings import load_settings
from tests.conftest import PROJECT
from tests.infra.kuberay import SCHEMAS, pod_templates
from tests.infra.kustomize import Doc, build

FOLDER = PROJECT / "infra" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
KUBERNETES = "1.37"


@pytest.fixture(scope="module", params=OVERLAYS)
def docs(request: pytest.FixtureRequest) -> list[Doc]:
    return build(FOLDER / request.param)


def of(docs: list[Doc], kind: str, name: str) -> Doc:
    (found,) = [doc for doc in docs if doc["kind"] == kind and doc["metadata"]["name"] == name]
    return found


def templates(docs: list[Doc]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, template) of every pod that comes of the manifests."""
    for doc in docs:
        where = f"{doc['kind']} {doc['metadata']['name']}"
        if doc["kind"] in SCHEMAS:
            yield from ((f"{where} {part}", template) for part, template in pod_templates(doc).items())
        elif doc["kind"] == "Deployment":
            yield where, doc["spec"]["template"]
        elif doc["kind"] == "CronJob":
            yield where, doc["spec"]["jobTemplate"]["spec"]["template"]


# --- Schemas ---------------------------------------------------------------------------------------------------------


def schema_faults(docs: list[Doc]) -> list[str]:
    found = []
    for doc in docs:
        where = f"{doc['kind']} {doc['metadata']['name']}"
        try:
            if doc["kind"] in SCHEMAS:
                jsonschema.validate(doc, SCHEMAS[doc["kind"]])
                for part, template in pod_templates(doc).items():
                    where = f"{doc['kind']} {doc['metadata']['name']} {part}"
                    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": part}, "template": template}
                    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
            else:
                kubernetes_validate.validate(doc, KUBERNETES, strict=True)
        except jsonschema.ValidationError as error:
            found.append(f"{where}: {error.message}")
    return found


GROUP = {"groupName": "workers", "rayStartParams": {}, "template": {"spec": {}}}


def test_every_manifest_meets_its_schema(docs: list[Doc]) -> None:
    assert schema_faults(docs) == []
    assert {doc["kind"] for doc in docs} >= {"RayCluster", "RayJob", "CronJob", "Deployment", "NetworkPolicy", "Role"}


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "said"),
    [
        ("CronJob", "night", "spec.concurencyPolicy", "Forbid", "concurencyPolicy"),
        ("CronJob", "night", "spec.startingDeadlineSeconds", "soon", "soon"),
        ("Deployment", "mlflow", "spec.template.spec.containers.0.volumeMounts.0.path", "/x", "path"),
        ("RayJob", "nightly", "spec.entryPoint", "screening", "entryPoint"),
        ("RayJob", "nightly", "spec.submissionMode", "Sometime", "Sometime"),
        ("RayJob", "nightly", "spec.rayClusterSpec.rayVersion", 2.6, "2.6"),
        ("RayJob", "nightly", "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type"),
        ("RayCluster", "screening", "spec.authOptions.mode", "perhaps", "perhaps"),
        ("RayCluster", "screening", "spec.authOptions.secret", "ray-token", "secret"),
        ("RayCluster", "screening", "spec.workerGroupSpecs.0.maxReplicas", 2**31, "2147483648"),
        ("RayCluster", "screening", "spec.workerGroupSpecs.0", {**GROUP, "maxReplicas": 2}, "minReplicas"),
        (
            "RayCluster",
            "screening",
            "spec.workerGroupSpecs.0.template.spec.containers.0.imagePolicy",
            "x",
            "imagePolicy",
        ),
    ],
)
def test_a_broken_manifest_is_found(kind: str, name: str, path: str, value: Any, said: str) -> None:
    broken = deepcopy(of(build(FOLDER / "cpu"), kind, name))
    put(broken, path, value)
    (fault,) = schema_faults([broken])
    assert said in fault


def put(node: Any, path: str, value: Any) -> None:
    *way, last = path.split(".")
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_the_same_of_it(overlay: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = list(yaml.safe_load_all(done.stdout))

    def named(docs: list[Doc]) -> dict[tuple[str, str], Doc]:
        return {(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}

    assert named(theirs) == named(build(FOLDER / overlay))


# --- Rules -----------------------------------------------------------------------------------------------------------


def rule_faults(docs: list[Doc]) -> list[str]:
    """Return what breaks the rules for pods: rights, resources, what is mounted how, and what they refer to."""
    found = []
    have = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    secrets = set(re.findall(r"create secret generic (\S+)", (PROJECT / "infra" / "README.md").read_text()))
    for where, template in templates(docs):
        pod = template["spec"]
        context = pod.get("securityContext", {})
        if not (context.get("runAsNonRoot") and context.get("runAsUser", 0) >= 10000):
            found.append(f"{where} runs as root")
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append(f"{where} has no seccomp profile")
        if pod["serviceAccountName"] != "night-starter" and pod.get("automountServiceAccountToken") is not False:
            found.append(f"{where} gets a token of Kubernetes")
        if ("ServiceAccount", pod["serviceAccountName"]) not in have:
            found.append(f"{where} has no account")
        if {"hostNetwork", "hostPID", "hostIPC"} & set(pod):
            found.append(f"{where} shares the machine")
        for container in pod["containers"]:
            of_it = container.get("securityContext", {})
            if not of_it.get("readOnlyRootFilesystem"):
                found.append(f"{where} can write its image")
            if of_it.get("allowPrivilegeEscalation") is not False or of_it.get("capabilities") != {"drop": ["ALL"]}:
                found.append(f"{where} can gain rights")
            for bound in ("requests", "limits"):
                if not {"cpu", "memory", "ephemeral-storage"} <= set(container.get("resources", {}).get(bound, {})):
                    found.append(f"{where} has no {bound}")
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            for name in ("archive", "settings", "key", "starter"):
                if name in mounts and not mounts[name].get("readOnly"):
                    found.append(f"{where} can write {name}")
            if "key" in mounts and not where.endswith(" head"):
                found.append(f"{where} has the pseudonym key")
            if set(mounts) != {volume["name"] for volume in pod["volumes"]}:
                found.append(f"{where}: mounts and volumes differ")
            if not re.fullmatch(
                rf"registry\.example/screening:{re.escape(screening.__version__)}(-cuda)?", container["image"]
            ):
                found.append(f"{where} has another image")
        for volume in pod["volumes"]:
            match volume:
                case {"persistentVolumeClaim": claim}:
                    if ("PersistentVolumeClaim", claim["claimName"]) not in have:
                        found.append(f"{where}: nobody claims {claim['claimName']}")
                    if claim["claimName"] == "archive" and not claim.get("readOnly"):
                        found.append(f"{where} can write archive")
                case {"configMap": {"name": name}}:
                    if ("ConfigMap", name) not in have:
                        found.append(f"{where}: there is no ConfigMap {name}")
                case {"secret": secret}:
                    if secret["secretName"] not in secrets:
                        found.append(f"{where}: nobody makes the secret {secret['secretName']}")
                case {"emptyDir": empty}:
                    if "sizeLimit" not in empty:
                        found.append(f"{where}: {volume['name']} is without bound")
                case _:
                    found.append(f"{where}: {volume['name']} is of a kind that nobody thought of")
        policies = [doc for doc in docs if doc["kind"] == "NetworkPolicy" and doc["spec"]["podSelector"]]
        labels = template["metadata"]["labels"].items()
        if not any(doc["spec"]["podSelector"]["matchLabels"].items() <= labels for doc in policies):
            found.append(f"{where} reaches nothing: no NetworkPolicy names it")
    closed = [doc for doc in docs if doc["kind"] == "NetworkPolicy" and not doc["spec"]["podSelector"]]
    if not any(set(doc["spec"]) == {"podSelector", "policyTypes"} for doc in closed):
        found.append("pods reach everything: no NetworkPolicy closes the rest")
    night = of(docs, "CronJob", "night")["spec"]
    if night["concurrencyPolicy"] != "Forbid":
        found.append("two nights may run at a time")
    ours = of(docs, "RayJob", "nightly")["spec"]["rayClusterSpec"]
    if ours["authOptions"].get("mode") != "token" or ours["authOptions"].get("secretName") not in secrets:
        found.append("Ray asks for no token")
    return found


def test_pods_keep_the_rules(docs: list[Doc]) -> None:
    assert rule_faults(docs) == []


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "said"),
    [
        ("Deployment", "mlflow", "spec.template.spec.securityContext.runAsUser", 0, "runs as root"),
        ("Deployment", "mlflow", "spec.template.spec.securityContext.seccompProfile.type", "Unconfined", "no seccomp"),
        ("Deployment", "mlflow", "spec.template.spec.automountServiceAccountToken", True, "gets a token of Kubernetes"),
        ("Deployment", "mlflow", "spec.template.spec.hostNetwork", True, "shares the machine"),
        ("Deployment", "mlflow", "spec.template.spec.serviceAccountName", "nobody", "has no account"),
        ("CronJob", "night", "spec.jobTemplate.spec.template.spec.containers.0.resources", {}, "has no requests"),
        ("CronJob", "night", "spec.jobTemplate.spec.template.spec.containers.0.image", "x:latest", "has another image"),
        ("CronJob", "night", "spec.concurrencyPolicy", "Allow", "two nights"),
        ("RayJob", "nightly", f"{HEAD}.containers.0.volumeMounts.0.readOnly", False, "head can write archive"),
        ("RayJob", "nightly", f"{HEAD}.volumes.0.persistentVolumeClaim.readOnly", False, "head can write archive"),
        ("RayJob", "nightly", f"{HEAD}.volumes.3.secret.secretName", "key", "nobody makes the secret key"),
        ("RayJob", "nightly", f"{HEAD}.volumes.2.configMap.name", "other", "there is no ConfigMap other"),
        ("RayJob", "nightly", f"{HEAD}.volumes.4", {"name": "tmp", "hostPath": {"path": "/"}}, "nobody thought of"),
        (
            "RayJob",
            "nightly",
            f"{HEAD}.containers.0.securityContext.readOnlyRootFilesystem",
            False,
            "can write its image",
        ),
        ("RayJob", "nightly", f"{HEAD}.containers.0.securityContext.capabilities", {"drop": []}, "can gain rights"),
        ("RayJob", "nightly", "spec.rayClusterSpec.authOptions.mode", "disabled", "Ray asks for no token"),
        ("RayJob", "nightly", "spec.submitterPodTemplate.metadata.labels", {"screening/role": "x"}, "reaches nothing"),
        ("NetworkPolicy", "nothing-else", "spec.ingress", [{}], "pods reach everything"),
    ],
)
def test_a_broken_rule_is_found(kind: str, name: str, path: str, value: Any, said: str) -> None:
    docs = deepcopy(build(FOLDER / "cpu"))
    put(of(docs, kind, name), path, value)
    assert any(said in fault for fault in rule_faults(docs))


def test_namespaces_ports_and_names_agree(docs: list[Doc]) -> None:
    assert {doc["metadata"].get("namespace") for doc in docs if doc["kind"] != "Namespace"} == {"screening"}
    server = of(docs, "Deployment", "mlflow")["spec"]
    service = of(docs, "Service", "mlflow")["spec"]
    assert service["selector"] == server["selector"]["matchLabels"] == server["template"]["metadata"]["labels"]
    head = pod_templates(of(docs, "RayJob", "nightly"))["head"]["spec"]["containers"][0]
    url = {each["name"]: each["value"] for each in head["env"]}["MLFLOW_TRACKING_URI"]
    assert url == f"http://mlflow:{service['ports'][0]['port']}"
    starter = of(docs, "CronJob", "night")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    script, pattern = starter["command"][1:]
    assert script.rpartition("/")[2] in of(docs, "ConfigMap", "night-starter")["data"]
    assert of(docs, "RayJob", pattern)["spec"]["suspend"] is True  # a pattern that ran would be a night too many


def admitted(docs: list[Doc], pod: dict[str, str], namespace: str) -> set[int]:
    """Return the ports of a pod with these labels that pods of another namespace reach."""
    found: set[int] = set()
    for doc in docs:
        spec = doc["spec"] if doc["kind"] == "NetworkPolicy" else {}
        if not spec or not spec["podSelector"].get("matchLabels", {}).items() <= pod.items():
            continue
        for rule in spec.get("ingress", []):
            of_namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
            if of_namespace in rule["from"]:
                found |= {port["port"] for port in rule["ports"]}
    return found


def test_prometheus_reaches_the_metrics_of_every_ray_pod_and_nothing_else(docs: list[Doc]) -> None:
    (job,) = yaml.safe_load((PROJECT / "infra/prometheus/kubernetes.yml").read_text())["scrape_configs"]
    (looks_in,) = [each["namespaces"]["names"] for each in job["kubernetes_sd_configs"]]
    assert looks_in == [of(docs, "Namespace", "screening")["metadata"]["name"]]
    kept = {each["source_labels"][0]: each["regex"] for each in job["relabel_configs"]}
    prefix = "__meta_kubernetes_pod_"
    for kind, name in (("RayJob", "nightly"), ("RayCluster", "screening")):
        for part, template in pod_templates(of(docs, kind, name)).items():
            if part == "submitter":
                continue
            labels = template["metadata"]["labels"]
            (ports,) = [container["ports"] for container in template["spec"]["containers"]]
            scraped = [port["containerPort"] for port in ports if port["name"] == kept[f"{prefix}container_port_name"]]
            assert labels["screening/role"] == kept[f"{prefix}label_screening_role"]
            assert admitted(docs, labels, "monitoring") == set(scraped) == {8080}
            assert admitted(docs, labels, "kuberay-system") == {8265}
    assert admitted(docs, {"app": "mlflow"}, "monitoring") == set()


def test_both_clusters_are_one_but_for_being_suspended(docs: list[Doc]) -> None:
    cluster = deepcopy(of(docs, "RayCluster", "screening")["spec"])
    assert cluster.pop("suspend") is True
    assert cluster == of(docs, "RayJob", "nightly")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__


def test_the_overlay_for_gpus_gives_every_worker_one() -> None:
    def gpus(overlay: str) -> list[Any]:
        workers = pod_templates(of(build(FOLDER / overlay), "RayJob", "nightly"))["workers"]["spec"]
        return [workers["containers"][0]["resources"][b].get("nvidia.com/gpu") for b in ("requests", "limits")]

    assert (gpus("cpu"), gpus("gpu")) == ([None, None], [1, 1])


def test_the_starter_may_do_what_it_does_and_no_more() -> None:
    (rule,) = of(build(FOLDER / "cpu"), "Role", "night-starter")["rules"]
    asked = set(re.findall(r'ask\("(\w+)"', (FOLDER / "base" / "start_night.py").read_text()))
    assert {"GET": "get", "POST": "create"}.keys() == asked
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}


def test_the_settings_are_those_of_a_night(docs: list[Doc]) -> None:
    job = of(docs, "RayJob", "nightly")
    head = pod_templates(job)["head"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["volumeMounts"]}
    path = job["spec"]["entrypoint"].rpartition(" ")[2]
    name = path.removeprefix(mounts["settings"] + "/")
    assert name in of(docs, "ConfigMap", "settings")["data"]
    found = load_settings(NightlySettings, FOLDER / "base" / name)
    assert found.archive == mounts["archive"]
    assert {url.split("/")[1] for url in (found.catalog, found.runs, found.report)} == {mounts["results"].strip("/")}
    assert found.key_file == f"{mounts['key']}/pseudonym.key"


def test_a_component_works_on_what_is_there_and_before_what_its_user_patches(tmp_path: Path) -> None:
    """The order that makes a patch of ../gpu itself come too late for the cluster for jobs by hand."""
    assert "patches" not in yaml.safe_load((FOLDER / "gpu" / "kustomization.yaml").read_text())
    kind = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
    (tmp_path / "part").mkdir()
    for folder, recipe in (
        (tmp_path, {"resources": ["a.yaml"], "components": ["part"]}),
        (tmp_path / "part", {"kind": "Component"}),
    ):
        patch = f"- {{op: add, path: /data/who, value: {folder.name}}}"
        recipe["patches"] = [{"target": {"kind": "ConfigMap"}, "patch": patch}]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(kind))
    (made,) = build(tmp_path)
    assert made["data"] == {"who": tmp_path.name}


def test_a_resolver_that_meets_something_new_says_so(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("helmCharts: []\n")
    with pytest.raises(AssertionError, match="unknown to this resolver"):
        build(tmp_path)
