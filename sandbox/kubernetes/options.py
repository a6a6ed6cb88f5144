"""What an installation is told of its cluster."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class KubernetesOptions(BaseModel):
    """How pods are made, and how they reach the egress proxy."""

    model_config = ConfigDict(frozen=True)

    installation: str
    runtime_image: str
    """Has the runtime at `sandbox.runtime.MOUNT` (`sandbox.runtime.install`)."""
    key: SecretStr = Field(min_length=16)
    """Every sandbox's own key towards process 1, and its password at a host gate, are derived from it."""
    namespace: str = "bulkhead-sandboxes"
    image: str | None = None
    """What a sandbox is made of that asks for no image; the runtime image if not set, which starts fastest."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    runtime_class: str | None = None
    user_namespaces: bool | None = None
    """Whether pods get a user namespace; None: where all nodes say that they can, if this worker may ask them."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    gate: tuple[str, int] | None = None
    """Where pods find the gate of an egress proxy in the cluster; None: this host has it (`gate_listen`)."""
    gate_listen: tuple[str, int] | None = None
    """Address and first port of a gate on this host; None: the address that this host has towards the nodes."""
    canary: Literal["full", "glance"] = "full"

    @property
    def default_image(self) -> str:
        """What a sandbox is made of that asks for no image."""
        return self.image or self.runtime_image
