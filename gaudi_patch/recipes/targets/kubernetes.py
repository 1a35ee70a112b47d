"""Plan -> Kubernetes manifests. Pure.

Engines and lm:// servers are Deployments. The server of multiprocess mode is a DaemonSet that shares its node's memory
and network with the engines there.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.recipes.ports import is_everywhere
from gaudi_patch.recipes.stores import kept_gb
from gaudi_patch.recipes.targets.containers import AWS
from gaudi_patch.recipes.targets.data import dump
from gaudi_patch.recipes.targets.plan import (
    ATTESTATION,
    CLEANED,
    FILES,
    GRACE,
    HUGE_PAGES,
    MODELS,
    TOOL,
    WARM_UP,
    Plan,
    Process,
    Role,
    mebibytes,
)
from gaudi_patch.sizing.plan import GIB

FILE = "kubernetes.yaml"
SECRET, CONFIG_MAP, STORE, WEIGHTS = "vllm", "lmcache", "lmcache-kv", "vllm-models"
#: Label of the nodes for a multiprocess server and its engines.
NODE = {"gaudi-patch/lmcache": "true"}
#: Bytes for models of unknown size.
UNKNOWN_MODELS = 200 * GIB

Manifest = dict[str, Any]


def files(plan: Plan, image: str, disk_gb: float) -> dict[str, str]:
    """Return the manifests in one file; ``disk_gb`` is the limit of LMCache's disk per rank."""
    _refuse_one_address(plan)
    _refuse_unreachable(plan)
    documents = [_config_map(plan), *_claims(plan)]
    for process in (*plan.servers, *plan.engines):
        documents.append(_workload(plan, process, image, disk_gb))
        # Engines find a multiprocess server on their own node.
        if process.role is Role.ENGINE or not plan.multiprocess:
            documents.append(_service(process))
    documents += [_cron_job(plan, process, image) for process in plan.having(Role.CLEANER)]
    return {FILE: plan.header + dump(documents)}


def _refuse_one_address(plan: Plan) -> None:
    """Raise a usage error for --bind ADDRESS with pod networks: the addresses of pods are unknown in advance."""
    bind = plan.settings.bind
    if bind is not None and not plan.multiprocess and not is_everywhere(bind):
        raise GaudiPatchError(
            Exit.USAGE,
            "usage",
            f"--bind {bind}: a pod's address is not known in advance, and Service and probes would not reach it",
            "leave --bind out, and let a NetworkPolicy decide who reaches the pods",
        )


def _refuse_unreachable(plan: Plan) -> None:
    """Raise a usage error for an lm:// server that other pods would not find: its host must be its Service."""
    for server in plan.servers if not plan.multiprocess else ():
        called = urlsplit(plan.settings.storage or "").hostname
        if called != server.name:
            raise GaudiPatchError(
                Exit.USAGE,
                "unreachable-server",
                f"pods do not reach {server.script} at {called or '127.0.0.1'}: in a cluster it is {server.name}",
                f"use --storage lm://{server.name}:{server.port}",
            )


def _config_map(plan: Plan) -> Manifest:
    kept = {process.script for process in plan.processes if process.role is not Role.ROCM}
    data = {name: content for name, content in plan.files.items() if name in kept or not name.endswith(".sh")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(CONFIG_MAP), "data": data}


def _claims(plan: Plan) -> list[Manifest]:
    weights = math.ceil((UNKNOWN_MODELS if plan.weights is None else plan.weights * 1.2) / GIB)
    mode = "ReadWriteMany" if len(plan.engines) > 1 or plan.multiprocess else "ReadWriteOnce"
    found = [_claim(WEIGHTS, mode, weights)]
    if plan.shared:
        # More than the cleaner keeps, for chunks that are written between its runs.
        size = math.ceil(kept_gb(plan.settings) * 1.1)
        found.append(_claim(STORE, "ReadWriteMany", size))
    return found


def _claim(name: str, mode: str, gib: int) -> Manifest:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": f"{gib}Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _metadata(name), "spec": spec}


def _service(process: Process) -> Manifest:
    name = "http" if process.role is Role.ENGINE else "lm"
    ports = [{"name": name, "port": process.port, "targetPort": process.port}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(process.name),
        "spec": {"selector": _labels(process.name), "ports": ports},
    }


def _workload(plan: Plan, process: Process, image: str, disk_gb: float) -> Manifest:
    pod = _server_pod(plan, process, image) if process.role is Role.SERVER else _pod(plan, process, image, disk_gb)
    daemon = process.role is Role.SERVER and plan.multiprocess
    template = {"metadata": {"labels": _labels(process.name)}, "spec": pod}
    spec: dict[str, Any] = {"selector": {"matchLabels": _labels(process.name)}, "template": template}
    if not daemon:
        # A second engine next to the first, as in a rolling update, would find no card and no memory.
        spec = {"replicas": 1, "strategy": {"type": "Recreate"}, **spec}
    kind = "DaemonSet" if daemon else "Deployment"
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": _metadata(process.name), "spec": spec}


def _pod(plan: Plan, process: Process, image: str, disk_gb: float) -> Manifest:
    volumes: list[Manifest] = [_volume_of_files(), {"name": "models", "persistentVolumeClaim": {"claimName": WEIGHTS}}]
    mounts = [_mount("files", FILES, read_only=True), _mount("models", MODELS)]
    if not plan.multiprocess:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{mebibytes(process.shm)}Mi"}})
        mounts.append(_mount("shm", "/dev/shm"))  # noqa: S108 - a mount point, not a temporary file
        disks, where = _disks(plan, disk_gb * plan.settings.ranks)
        volumes += disks
        mounts += where
    if plan.shared:
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": STORE}})
        mounts += [_mount("store", directory) for directory in plan.shared]
    container: Manifest = {
        "name": "vllm",
        "image": image,
        "command": ["/bin/sh", f"{FILES}/{process.script}"],
        "env": _environment(plan, process),
        "ports": [{"name": "http", "containerPort": process.port}],
        "resources": {
            "limits": {
                "habana.ai/gaudi": plan.settings.ranks,
                "memory": f"{mebibytes(process.memory)}Mi",
                "hugepages-2Mi": HUGE_PAGES,
            }
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            # Host memory is pinned for the cards, and a pod cannot raise RLIMIT_MEMLOCK.
            "capabilities": {"add": ["SYS_NICE", "IPC_LOCK"]},
        },
        "startupProbe": _probe(process, 10, WARM_UP // 10),
        "readinessProbe": _probe(process, 10, 3),
        "livenessProbe": _probe(process, 30, 4),
        "volumeMounts": mounts,
    }
    pod: Manifest = {"initContainers": [_check(image)], "containers": [container], "volumes": volumes}
    return {**_alone(plan), "terminationGracePeriodSeconds": GRACE, **pod}


def _disks(plan: Plan, gib: float) -> tuple[list[Manifest], list[Manifest]]:
    """Return volumes and mounts for one pod's directories: they vanish with it, as does LMCache's index of them."""
    volumes, mounts = [], []
    for number, directory in enumerate(plan.local):
        limit = {"sizeLimit": f"{math.ceil(gib * 1.05)}Gi"}
        volumes.append({"name": f"disk-{number}", "emptyDir": limit})
        mounts.append(_mount(f"disk-{number}", directory))
    return volumes, mounts


def _cron_job(plan: Plan, process: Process, image: str) -> Manifest:
    """Return the CronJob that removes old chunks from the store."""
    container: Manifest = {
        "name": "clean",
        "image": image,
        "command": ["/bin/sh", f"{FILES}/{process.script}"],
        "resources": {"limits": {"memory": f"{mebibytes(process.memory)}Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            _mount("files", FILES, read_only=True),
            *(_mount("store", directory) for directory in plan.shared),
        ],
    }
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [_volume_of_files(), {"name": "store", "persistentVolumeClaim": {"claimName": STORE}}],
    }
    job = {"backoffLimit": 0, "template": {"metadata": {"labels": _labels(process.name)}, "spec": pod}}
    spec = {"schedule": f"*/{CLEANED} * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": _metadata(process.name), "spec": spec}


def _check(image: str) -> Manifest:
    """Return the init container that fails a pod whose LMCache differs from the image's attestation."""
    return {
        "name": "check",
        "image": image,
        "command": [TOOL, "check", "--python", "python3", "--against", ATTESTATION],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"limits": {"memory": "512Mi"}},
    }


def _server_pod(plan: Plan, process: Process, image: str) -> Manifest:
    container: Manifest = {
        "name": "server",
        "image": image,
        "command": ["/bin/sh", f"{FILES}/{process.script}"],
        "env": _secrets(plan, process),
        "ports": [{"name": "lm", "containerPort": process.port}],
        "resources": {"limits": {"memory": f"{mebibytes(process.memory)}Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [_mount("files", FILES, read_only=True)],
    }
    if plan.multiprocess:
        # The server has no card: it shares the node's memory with the engines, through /dev/shm.
        container["securityContext"]["capabilities"] = {"add": ["IPC_LOCK"]}
        # Room for what the server has written since its start, and for what an earlier one in this pod left.
        disks, mounts = _disks(plan, 2 * kept_gb(plan.settings))
        container["volumeMounts"] += mounts
        probe = _probe(process, 10, 3)
        container |= {"readinessProbe": probe, "livenessProbe": {**probe, "failureThreshold": 6}}
        return {**_alone(plan), "containers": [container], "volumes": [_volume_of_files(), *disks]}
    container["readinessProbe"] = {"tcpSocket": {"port": "lm"}, "periodSeconds": 10}
    # In the pod, the Service's name means the pod's own address, so the server can listen on it.
    return {**_alone(plan), "hostname": process.name, "containers": [container], "volumes": [_volume_of_files()]}


def _alone(plan: Plan) -> Manifest:
    """Return what a pod shares with its node: memory and network in multiprocess mode, otherwise nothing."""
    # Service links would set VLLM_PORT to the URL of a Service called vllm: vLLM reads it as its own port and exits.
    pod: Manifest = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    if plan.multiprocess:
        pod |= {"hostIPC": True, "hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "nodeSelector": NODE}
    return pod


def _environment(plan: Plan, process: Process) -> list[Manifest]:
    return [
        {"name": "OMPI_MCA_btl_vader_single_copy_mechanism", "value": "none"},
        {"name": "HF_HOME", "value": MODELS},
        # Without a key vLLM would serve every pod of the cluster.
        _secret("VLLM_API_KEY", "api-key"),
        _secret("HF_TOKEN", "hf-token", optional=True),
        *_secrets(plan, process),
    ]


def _secrets(plan: Plan, process: Process) -> list[Manifest]:
    """Return the variables that the store needs."""
    found = [_secret(name, _key(name)) for name in process.of.secrets]
    return found + [_secret(name, _key(name), optional=True) for name in (AWS if plan.uses_s3 else ())]


def _secret(name: str, key: str, *, optional: bool = False) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key, "optional": optional}}}


def _key(variable: str) -> str:
    return variable.lower().replace("_", "-")


def _probe(process: Process, period: int, failures: int) -> Manifest:
    action: Manifest = {"path": process.of.health, "port": process.of.ports["http"]}
    if not is_everywhere(process.of.bind):
        # Otherwise the probe would ask the pod's address, which is here the node's.
        action["host"] = process.of.bind
    return {"httpGet": action, "periodSeconds": period, "timeoutSeconds": 10, "failureThreshold": failures}


def _volume_of_files() -> Manifest:
    return {"name": "files", "configMap": {"name": CONFIG_MAP, "defaultMode": 0o555}}


def _mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    found: Manifest = {"name": name, "mountPath": path}
    return {**found, "readOnly": True} if read_only else found


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "gaudi-lmcache"}


def _metadata(name: str) -> Manifest:
    return {"name": name, "labels": _labels(name)}


def notes(plan: Plan) -> tuple[str, ...]:
    """Return what an administrator does with the manifests, and what only administrators can know."""
    secrets = dict.fromkeys(_key(name) for process in plan.processes for name in process.of.secrets)
    more = "".join(f" --from-literal={key}=PASSWORD" for key in secrets)
    found = [
        f"Create the keys first: `kubectl create secret generic {SECRET} --from-literal=api-key=KEY "
        f"--from-literal=hf-token=TOKEN{more}`; then `kubectl apply -f {FILE}`.",
        f"Memory is computed; hugepages-2Mi is what Intel's guide gives a pod. No claim names a storage class, and "
        f"{WEIGHTS} has room for one model: edit them.",
        f"The init container compares LMCache with {ATTESTATION} of the image. For an attestation from outside the "
        f"image, see `gaudi-patch guide fleet`.",
    ]
    if plan.shared:
        found.append(f"The claim {STORE} needs a storage class with ReadWriteMany, such as NFS or VAST.")
    if plan.multiprocess:
        (label,) = NODE
        found.append(f"Server and engines run on nodes labelled with `kubectl label node NODE {label}=true`.")
    if any(process.role is Role.ROCM for process in plan.processes):
        found.append("The MI300X side is not in the file: run mi300x.sh in an image of vLLM for ROCm.")
    return tuple(found)
