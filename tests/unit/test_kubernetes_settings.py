"""What the settings of sandboxes that are pods become, and what is said of those that are wrong."""

import pytest

from controlplane.egress import gate_address
from controlplane.errors import InvalidRequestError
from controlplane.kubernetes import kubernetes_options
from controlplane.settings import Settings

KEY = "0123456789abcdef"


def settings(**given: object) -> Settings:
    return Settings.model_validate(
        {"sandbox": "kubernetes", "kubernetes_runtime_image": "bulkhead:1", "kubernetes_key": KEY, **given}
    )


def test_lists_and_addresses_are_read() -> None:
    options = kubernetes_options(
        settings(
            worker_name="here",
            kubernetes_pull_secrets="a, b",
            kubernetes_user_namespaces="true",
            kubernetes_node_selector="disktype=ssd, example.com/pool=agents",
            kubernetes_gate="egress.bulkhead.svc:3129",
        )
    )
    assert (options.installation, options.pull_secrets) == ("here", ("a", "b"))
    assert options.node_selector == {"disktype": "ssd", "example.com/pool": "agents"}
    assert options.user_namespaces is True
    assert options.gate == ("egress.bulkhead.svc", 3129)
    assert (options.gate_listen, options.image, options.runtime_class) == (None, None, None)
    assert options.default_image == "bulkhead:1"


@pytest.mark.parametrize(
    ("variable", "given"),
    [
        ("KUBERNETES_RUNTIME_IMAGE", {"kubernetes_runtime_image": ""}),
        ("KUBERNETES_KEY", {"kubernetes_key": None}),
        ("KUBERNETES_KEY", {"kubernetes_key": "short"}),
        ("KUBERNETES_NODE_SELECTOR", {"kubernetes_node_selector": "ssd"}),
        ("KUBERNETES_GATE", {"kubernetes_gate": "egress"}),
        ("KUBERNETES_GATE_LISTEN", {"kubernetes_gate_listen": "::1:5"}),
    ],
)
def test_what_is_wrong_names_the_variable_and_the_next_step(variable: str, given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=f"BULKHEAD_{variable}: ") as caught:
        kubernetes_options(settings(**given))
    assert caught.value.field == f"BULKHEAD_{variable}"
    assert caught.value.next_step


def test_the_proxys_gate_is_an_address() -> None:
    assert gate_address(settings(egress_gate_listen="[::]:3129"), "egress_gate_listen") == ("::", 3129)
    assert gate_address(settings(), "egress_gate_listen") is None
    with pytest.raises(InvalidRequestError, match="BULKHEAD_EGRESS_GATE_LISTEN: 'x' is not host:port"):
        gate_address(settings(egress_gate_listen="x"), "egress_gate_listen")


def test_parts_are_found_where_they_listen_or_where_they_are_said_to_be() -> None:
    assert Settings(gateway_port=1).gateway_url == "http://127.0.0.1:1"
    found = Settings(gateway_host="0.0.0.0", gateway_address="gateway:8401", memory_address="memory:8402")
    assert (found.gateway_url, found.memory_url) == ("http://gateway:8401", "http://memory:8402")
