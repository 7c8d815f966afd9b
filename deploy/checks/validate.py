"""Validates rendered manifests against the schemas of Kubernetes, unknown fields included.

validate.py FOLDER OLDEST FILE...

OLDEST is the oldest version of Kubernetes to validate for, 1.30 for example; all newer ones that the package has schemas for follow.
Objects of other APIs go into FOLDER/custom.json, for custom.mjs. The sse-proxy.yaml of each ConfigMap goes into FOLDER.
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml

# Of the Gateway API and of the Prometheus operator.
CUSTOM = {"gateway.networking.k8s.io", "monitoring.coreos.com"}


def minor(version):
    return tuple(int(part) for part in version.split(".")[:2])


def versions(oldest):
    """One version for each minor one since `oldest`."""
    folder = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    known = {entry.name[1:].removesuffix("-local-strict") for entry in folder.glob("v*-local-strict")}
    wanted = sorted((version for version in known if minor(version) >= minor(oldest)), key=minor)
    if not wanted or minor(wanted[0]) != minor(oldest):
        sys.exit(f"no schemas of Kubernetes {oldest}, only of {sorted(known, key=minor)}")
    return wanted


def main():
    folder, oldest, *files = sys.argv[1:]
    folder = pathlib.Path(folder)
    wanted = versions(oldest)
    custom, failures, validated = [], [], 0
    for file in map(pathlib.Path, files):
        seen = set()
        for document in yaml.safe_load_all(file.read_text()):
            if document is None:
                continue
            name = f"{file.stem}.{document['kind']}.{document['metadata']['name']}"
            if name in seen:
                failures.append(f"{name}: twice in one file")
            seen.add(name)
            if document["apiVersion"].split("/")[0] in CUSTOM:
                custom.append([name, document])
                continue
            for version in wanted:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                    validated += 1
                except (
                    kubernetes_validate.ValidationError,
                    kubernetes_validate.SchemaNotFoundError,
                    kubernetes_validate.InvalidSchemaError,
                ) as error:
                    path = ".".join(str(part) for part in getattr(error, "path", []) or [])
                    failures.append(f"{name}: Kubernetes {version}: {path}: {getattr(error, 'message', error)}")
            if document["kind"] == "ConfigMap":
                (folder / f"{file.stem}.sse-proxy.yaml").write_text(document["data"]["sse-proxy.yaml"])
        if not seen:
            failures.append(f"{file}: no objects")
    (folder / "custom.json").write_text(json.dumps(custom))
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        sys.exit(1)
    print(f"{validated} objects fit the schemas of Kubernetes {wanted[0]} to {wanted[-1]}")


main()
