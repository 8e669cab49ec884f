"""What ``kubectl kustomize`` makes of a folder, for the few features that infra/kubernetes uses; any other is refused.

Where kubectl is there, a test holds the two against each other.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]
NOT_IN_A_NAMESPACE = {"Namespace"}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions", "images", "patches"}
KNOWN |= {"components", "replacements"}


def build(folder: Path) -> list[Doc]:
    """Return the manifests of a folder with a ``kustomization.yaml``."""
    return _made(folder, [])


def _made(folder: Path, docs: list[Doc]) -> list[Doc]:
    """Return what a folder makes of manifests that are there: none for a kustomization, for a component those before it."""
    recipe = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(recipe) <= KNOWN, f"{folder}: unknown to this resolver: {set(recipe) - KNOWN}"
    for name in recipe.get("resources", []):
        path = folder / name
        docs += build(path) if path.is_dir() else [deepcopy(d) for d in yaml.safe_load_all(path.read_text())]
    for name in recipe.get("components", []):  # before the folder's own patches, as kustomize does
        docs = _made(folder / name, docs)
    options = recipe.get("generatorOptions", {})
    assert options in ({}, {"disableNameSuffixHash": True})
    for each in recipe.get("configMapGenerator", []):
        assert options, "names of generated ConfigMaps would carry a hash"
        data = {Path(name).name: (folder / name).read_text() for name in each["files"]}
        docs.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": each["name"]}, "data": data})
    if "namespace" in recipe:
        for doc in docs:
            if doc["kind"] not in NOT_IN_A_NAMESPACE:
                doc["metadata"]["namespace"] = recipe["namespace"]
    for patch in recipe.get("patches", []):
        assert set(patch) == {"target", "patch"}
        for doc in _selected(docs, patch["target"]):
            for step in yaml.safe_load(patch["patch"]):
                assert step["op"] == "add"
                _add(doc, [part.replace("~1", "/") for part in step["path"].split("/")[1:]], step["value"])
    for image in recipe.get("images", []):
        for doc in docs:
            _rename(doc, image)
    for each in recipe.get("replacements", []):
        (source,) = _selected(docs, {key: each["source"][key] for key in ("kind", "name")})
        value: Any = source
        for part in each["source"]["fieldPath"].split("."):
            value = value[part]
        for target in each["targets"]:
            assert target["options"] == {"create": True}
            found = _selected(docs, target["select"])
            assert found, f"{folder}: a replacement finds no {target['select']}"
            for doc in found:
                for path in target["fieldPaths"]:
                    _add(doc, path.split("."), deepcopy(value))
    return docs


def _selected(docs: list[Doc], by: dict[str, str]) -> list[Doc]:
    assert set(by) <= {"kind", "name"}
    found = [d for d in docs if d["kind"] == by["kind"] and by.get("name") in (None, d["metadata"]["name"])]
    assert found, f"nothing is {by}"
    return found


def _add(doc: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        doc = doc[int(part)] if isinstance(doc, list) else doc[part]
    doc[path[-1]] = value


def _rename(node: Any, image: dict[str, str]) -> None:
    """Change the image in every ``containers`` and ``initContainers``, wherever they are."""
    if isinstance(node, list):
        for each in node:
            _rename(each, image)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                for container in value:
                    if container["image"].rpartition(":")[0] == image["name"]:
                        container["image"] = f"{image['newName']}:{image['newTag']}"
            _rename(value, image)
