"""Sandboxes that are pods, as the settings describe them."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from controlplane.egress import gate_address
from controlplane.errors import InvalidRequestError
from controlplane.settings import Settings

if TYPE_CHECKING:
    from sandbox.kubernetes import KubernetesOptions

_SHORTEST_KEY = 16


def kubernetes_options(settings: Settings) -> "KubernetesOptions":
    """Return what the provider is told; raises `InvalidRequestError` that names the variable."""
    if find_spec("kubernetes") is None:
        raise InvalidRequestError(
            "sandboxes are to be pods, and the packages for that are not installed",
            code="missing_extra",
            next_step="install them: pip install 'bulkhead[kubernetes]'",
        )
    from sandbox.kubernetes import KubernetesOptions

    if not settings.kubernetes_runtime_image:
        raise _bad(
            "KUBERNETES_RUNTIME_IMAGE",
            "not set, and no pod begins without it",
            "name an image that has Bulkhead's runtime, such as the one that `make image` makes",
        )
    key = settings.kubernetes_key
    if key is None or len(key.get_secret_value()) < _SHORTEST_KEY:
        raise _bad(
            "KUBERNETES_KEY",
            "not set" if key is None else f"shorter than {_SHORTEST_KEY} characters",
            "give all sandbox workers of the installation the same random text, such as `openssl rand -hex 32` makes",
        )
    return KubernetesOptions(
        installation=settings.host_name,
        namespace=settings.kubernetes_namespace,
        runtime_image=settings.kubernetes_runtime_image,
        image=settings.kubernetes_image or None,
        pull_policy=settings.kubernetes_pull_policy,
        pull_secrets=tuple(_listed(settings.kubernetes_pull_secrets)),
        runtime_class=settings.kubernetes_runtime_class or None,
        user_namespaces=settings.kubernetes_user_namespaces,
        node_selector=_labels(settings.kubernetes_node_selector),
        key=key,
        gate=gate_address(settings, "kubernetes_gate"),
        gate_listen=gate_address(settings, "kubernetes_gate_listen"),
        canary=settings.kubernetes_canary,
    )


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for each in _listed(text):
        key, equals, value = each.partition("=")
        if not equals or not key.strip():
            raise _bad("KUBERNETES_NODE_SELECTOR", f"{each!r} is not key=value", "write labels as in disktype=ssd")
        labels[key.strip()] = value.strip()
    return labels


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _bad(name: str, problem: object, next_step: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"BULKHEAD_{name}: {problem}", code="bad_configuration", field=f"BULKHEAD_{name}", next_step=next_step
    )
