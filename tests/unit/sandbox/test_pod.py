"""What a pod is asked for."""

from typing import Any

from pydantic import SecretStr

from sandbox.contract import SandboxSpec
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.kubernetes.pod import manifest

OPTIONS = KubernetesOptions(installation="test", runtime_image="runtime", key=SecretStr("0123456789abcdef"))


def asked(*, own_users: bool = False, **options: Any) -> dict[str, Any]:
    """Return the specification of a pod."""
    made = manifest("sbx_1", SandboxSpec(), OPTIONS.model_copy(update=options), targets=[], own_users=own_users)
    return made["spec"]


def test_what_an_operator_chooses_is_asked_for():
    chosen = asked(runtime_class="gvisor", pull_secrets=("one", "two"), node_selector={"pool": "sandboxes"})
    assert chosen["runtimeClassName"] == "gvisor"
    assert chosen["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert chosen["nodeSelector"] == {"pool": "sandboxes"}
    assert "runtimeClassName" not in asked()


def test_a_user_namespace_is_asked_for_where_the_nodes_can_give_one():
    assert asked(own_users=True)["hostUsers"] is False
    assert "hostUsers" not in asked()


def test_a_pod_is_given_up_soon_after_its_node():
    conditions = {each["key"]: (each["effect"], each["tolerationSeconds"]) for each in asked()["tolerations"]}
    assert conditions == {
        "node.kubernetes.io/not-ready": ("NoExecute", 30),
        "node.kubernetes.io/unreachable": ("NoExecute", 30),
    }
