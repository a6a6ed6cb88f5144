"""What a sandbox's pod is asked to be, and what is read back from one."""

import hashlib
import json
import re
from typing import Any

from sandbox import runtime, storage
from sandbox.contract import SandboxSpec
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.runtime import ANY_LOADER, MOUNT
from sandbox.supervised import checked_id
from sandbox.supervisor.canary import NODE_ADDRESS, Target

SUPERVISOR_MB = 64
"""What process 1 may use beside the commands' memory."""
SPOOL_BYTES = 32 << 20
OPEN_FILES = 4096
QUIET_SECONDS = {"full": 1.0, "glance": 0.3}
"""How long a pod must have reached nothing. On a cluster whose policies bite late its first 0.9 s were open."""
ALWAYS_TRIED: tuple[Target, ...] = (("169.254.169.254", 80), ("192.0.2.1", 80))
"""The metadata service of clouds, and an address of which only a route is there."""
CONTAINER = "sandbox"
INSTALLATION, SANDBOX_ID, PROVEN = "bulkhead.dev/installation", "bulkhead.dev/sandbox-id", "bulkhead.dev/proven"
PART_OF = {"app.kubernetes.io/part-of": "bulkhead", "app.kubernetes.io/component": "sandbox"}
_RUNTIME_FOLDER = "/.bulkhead-runtime"
_FIRST_UID, _UIDS = 1_000_000_000, 1 << 29
_END_FILE = "/.bulkhead-end"
"""Where the kubelet shows a file for last words: not in /dev, which has only what every sandbox has there."""
_WITHOUT_NODE_SECONDS = 30
"""After so long the pod of a node that is away is lost: Kubernetes' own 300 would outlast a call's patience."""

_LOADER_VARIABLES = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES")
"""What an image sets of these the loader would put into process 1, before it has confined itself."""

Json = dict[str, Any]


def program(*arguments: str) -> list[str]:
    """Return the command that starts the supervisor in a pod, on whatever architecture."""
    return runtime.Runtime(path=runtime.Path(MOUNT), loader=ANY_LOADER).supervisor(*arguments)


def pod_name(installation: str, sandbox_id: str) -> str:
    """Return the one name of a sandbox's pod: readable, and no other sandbox's."""
    digest = hashlib.sha256(f"{installation}/{checked_id(sandbox_id)}".encode()).hexdigest()[:10]
    return f"{re.sub(r'[^a-z0-9]+', '-', sandbox_id.lower()).strip('-')[:50]}-{digest}".strip("-")


def user_of(installation: str, sandbox_id: str) -> int:
    """Return the sandbox's own user: what the kernel counts by user, processes above all, no two sandboxes share."""
    digest = hashlib.sha256(f"user/{installation}/{sandbox_id}".encode()).digest()
    return _FIRST_UID + int.from_bytes(digest[:4], "big") % _UIDS


def memory_mb(spec: SandboxSpec) -> int:
    """Return a pod's limit: files in a memory file system count as memory."""
    return spec.memory_mb + storage.megabytes(spec) + SUPERVISOR_MB


def manifest(
    sandbox_id: str, spec: SandboxSpec, options: KubernetesOptions, *, targets: list[Target], own_users: bool
) -> Json:
    """Return the pod; ``targets`` it must not reach, ``own_users``: the nodes can give it a user namespace."""
    image = spec.image or options.default_image
    user = user_of(options.installation, sandbox_id)
    folders = {**storage.folders(spec), "/dev/shm": storage.SCRATCH_MB}  # noqa: S108
    volumes = [
        {"name": f"memory-{number}", "emptyDir": {"medium": "Memory", "sizeLimit": f"{megabytes}Mi"}}
        for number, megabytes in enumerate(folders.values())
    ]
    mounts: list[Json] = [{"name": f"memory-{number}", "mountPath": path} for number, path in enumerate(folders)]
    first: list[Json] = []
    if image != options.runtime_image:
        volumes.append({"name": "runtime", "emptyDir": {}})
        mounts.append({"name": "runtime", "mountPath": MOUNT, "readOnly": True})
        first.append(_carrier(options))
    spec_of_pod: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "hostname": "sandbox",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": options.node_selector,
        "tolerations": [
            {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute",
             "tolerationSeconds": _WITHOUT_NODE_SECONDS}
            for state in ("not-ready", "unreachable")
        ],
        "imagePullSecrets": [{"name": name} for name in options.pull_secrets],
        "volumes": volumes,
        "initContainers": first,
        "containers": [_container(image, spec, options, mounts, targets)],
    }  # fmt: skip
    if options.runtime_class:
        spec_of_pod["runtimeClassName"] = options.runtime_class
    if own_users:
        spec_of_pod["hostUsers"] = False
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(options.installation, sandbox_id),
            "labels": {**PART_OF, INSTALLATION: options.installation, SANDBOX_ID: _label(sandbox_id)},
            "annotations": {SANDBOX_ID: sandbox_id},
        },
        "spec": spec_of_pod,
    }


def _label(sandbox_id: str) -> str:
    return sandbox_id[:63].strip("-_")


def _confined() -> Json:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _carrier(options: KubernetesOptions) -> Json:
    return {
        "name": "runtime",
        "image": options.runtime_image,
        "imagePullPolicy": options.pull_policy,
        "command": program("carry", MOUNT, _RUNTIME_FOLDER),
        "securityContext": _confined(),
        "resources": {"limits": {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "256Mi"},
                      "requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "64Mi"}},
        "volumeMounts": [{"name": "runtime", "mountPath": _RUNTIME_FOLDER}],
    }  # fmt: skip


def _container(
    image: str, spec: SandboxSpec, options: KubernetesOptions, mounts: list[Json], targets: list[Target]
) -> Json:
    supervisor = {
        "sealed": True,
        "last_words": _END_FILE,
        "lifetime_seconds": spec.lifetime_seconds,
        "spool_bytes": SPOOL_BYTES,
        "tasks": spec.pids,
        "limits": {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": spec.pids},
        "canary": {"targets": targets, "quiet_seconds": QUIET_SECONDS[options.canary]},
    }
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": options.pull_policy,
        "command": program("serve", json.dumps(supervisor, separators=(",", ":"))),
        "workingDir": "/",
        "env": [
            {"name": "HOME", "value": "/home/agent"},
            {"name": "USER", "value": "agent"},
            {"name": "TERM", "value": "dumb"},
            *({"name": name, "value": ""} for name in _LOADER_VARIABLES),
            {"name": NODE_ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ],
        "securityContext": _confined(),
        "resources": {
            "limits": {
                "cpu": f"{round(spec.cpus * 1000)}m",
                "memory": f"{memory_mb(spec)}Mi",
                "ephemeral-storage": "64Mi",
            },
            "requests": {
                "cpu": f"{max(round(spec.cpus * 100), 10)}m",
                "memory": f"{spec.memory_mb}Mi",
                "ephemeral-storage": "16Mi",
            },
        },
        "terminationMessagePath": _END_FILE,
        "volumeMounts": mounts,
    }


def sandbox_of(pod: Json, installation: str) -> str | None:
    """Return whose pod this is; None if its name says something else than what is written on it."""
    named = pod["metadata"].get("annotations", {}).get(SANDBOX_ID, "")
    if not named or pod_name(installation, named) != pod["metadata"]["name"]:
        return None
    return named


def has_ended(pod: Json) -> bool:
    """Whether nothing runs in it any more, or soon will not."""
    return pod["status"].get("phase") in {"Succeeded", "Failed"} or "deletionTimestamp" in pod["metadata"]


def failure(pod: Json) -> str | None:
    """Return why a pod will not start, in Kubernetes' own words; None while it may."""
    status = pod["status"]
    if status.get("phase") == "Failed":
        return f"{status.get('reason', 'the pod failed')}: {status.get('message') or _ends(status)}"
    for each in _containers(status):
        waiting = each["state"].get("waiting", {})
        if waiting.get("reason") in _HOPELESS:
            return f"image {each['image']!r}: {waiting['reason']}: {waiting.get('message', '')}"
    if status.get("phase") == "Succeeded":
        return f"process 1 ended: {_ends(status)}"
    return None


_HOPELESS = {
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
}  # fmt: skip


def obstacle(pod: Json) -> str:
    """Return what a pod waits for."""
    for each in pod["status"].get("conditions", []):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason')}: {each.get('message')}"
    found = [each["state"]["waiting"] for each in _containers(pod["status"]) if "waiting" in each["state"]]
    return "; ".join(f"{each.get('reason')}: {each.get('message', '')}".rstrip(": ") for each in found) or "no reason"


def is_running(pod: Json) -> bool:
    """Whether process 1 has been started."""
    return any("running" in each["state"] for each in pod["status"].get("containerStatuses", []))


def _containers(status: Json) -> list[Json]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _ends(status: Json) -> str:
    found = [each["state"]["terminated"] for each in _containers(status) if "terminated" in each["state"]]
    return (
        "; ".join(
            f"{each.get('reason', 'ended')} with exit code {each.get('exitCode')} {each.get('message', '')}".strip()
            for each in found
            if each.get("exitCode") or len(found) == 1
        )
        or "no reason given"
    )
