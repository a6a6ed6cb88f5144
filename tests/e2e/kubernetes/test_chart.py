"""The chart as it is rendered, with nothing installed."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from tests.support.chart import CHART, call, kubectl, needs_helm, refusal, render, require_cluster

pytestmark = [pytest.mark.kubernetes, needs_helm]

EMBEDDED = ("--set=embedded.enabled=true",)
EXTERNAL = (
    "--set=secrets.database.name=keys,secrets.masterKey.name=keys,secrets.apiKey.name=keys,secrets.sandboxKey.name=keys",
    "--set=temporal.address=temporal-frontend.temporal:7233",
)
EVERYTHING = (
    *EXTERNAL,
    "--set=slack.enabled=true,slack.http=true,slack.replicas=2,memoryWorker.replicas=2",
    "--set=ingress.enabled=true,ingress.host=bulkhead.example.com,ingress.tlsSecret=tls,ingress.className=nginx",
    "--set=api.autoscaling.enabled=true,brain.autoscaling.enabled=true,gateway.autoscaling.enabled=true",
    "--set=secrets.providers.name=p,secrets.providersFile.name=f,secrets.embedding.name=e,secrets.egressAuthorities.name=c",
    "--set=temporal.tls=true,temporal.serverName=t,secrets.temporalApiKey.name=t,secrets.temporalClient.name=t",
    "--set=secrets.temporalAuthorities.name=a",
    "--set=sandbox.runtimeClass=gvisor,sandbox.nodeSelector.pool=sandboxes,sandbox.canary=glance,sandbox.image=img:1",
    "--set=sandbox.hostUsers=false",
    "--set=image.digest=sha256:" + "0" * 64,
    "--set=image.pullSecrets[0]=registry,sandbox.pullSecrets[0]=registry",
    "--set=networkPolicies.apiFrom[0].podSelector.matchLabels.app=proxy",
    "--set=settings.BULKHEAD_MODEL_LOG_DAYS=30,gateway.settings.OPENAI_BASE_URL=https://models.example.com/v1",
)
TRYING = (f"--values={CHART.parent / 'trying.yaml'}",)
SETS = {"embedded": EMBEDDED, "trying": TRYING, "external": EXTERNAL, "everything": EVERYTHING}
ALONE: dict[str, Any] = {"serviceAccountName": "default"}
"""What a pod of the chart is given to be looked at without the rest of it."""
HARMFUL_FIELDS = {"hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort", "privileged"}


@pytest.fixture(params=SETS)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of each set of values."""
    return render(*SETS[request.param])


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the name of each object that has pods, or is one → the pod's spec."""
    specs = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Pod"}
    having = [each for each in objects if "template" in each.get("spec", {})]
    return specs | {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in having}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a pod, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def fields(value: object) -> set[str]:
    """Return the names of all fields in an object."""
    if isinstance(value, dict):
        return set(value) | {name for each in value.values() for name in fields(each)}
    return {name for each in value for name in fields(each)} if isinstance(value, list) else set()


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a container: name → value, or where it is from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


@pytest.mark.parametrize("options", SETS.values(), ids=SETS)
def test_helm_finds_nothing_to_complain_of(options: tuple[str, ...]) -> None:
    assert "0 chart(s) failed" in call("helm", "lint", "--strict", str(CHART), *options).stdout


def test_no_pod_has_more_than_it_needs(rendered: list[dict[str, Any]]) -> None:
    found = pods(rendered)
    assert len(found) >= 8
    for name, pod in found.items():
        assert not fields(pod) & HARMFUL_FIELDS, name
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert set(container["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}, name


def test_only_what_starts_and_ends_sandboxes_may_ask_kubernetes(rendered: list[dict[str, Any]]) -> None:
    with_token = {name for name, pod in pods(rendered).items() if pod["automountServiceAccountToken"]}
    assert with_token == {"bulkhead-sandboxes", "bulkhead-clear"}
    roles = [each for each in rendered if each["kind"] in {"Role", "ClusterRole"}]
    assert [(each["kind"], each["metadata"]["namespace"]) for each in roles] == [("Role", "bulkhead-sandboxes")]
    for rule in roles[0]["rules"]:
        assert "*" not in json.dumps(rule)
        assert not {"update", "deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert "secrets" not in rule["resources"]


def test_only_a_namespace_is_outside_of_namespaces(rendered: list[dict[str, Any]]) -> None:
    kinds = {each["kind"] for each in rendered}
    assert not {kind for kind in kinds if kind.startswith(("Cluster", "Custom", "Mutating", "Validating"))}
    outside = [each for each in rendered if each["kind"] == "Namespace"]
    assert [each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for each in outside] == ["restricted"]


def test_each_part_gets_the_secrets_that_it_reads_and_no_other() -> None:
    readers: dict[str, set[str]] = {}
    for name, pod in pods(render(*EVERYTHING)).items():
        for container in containers(pod):
            for variable, source in variables(container).items():
                if isinstance(source, dict):
                    readers.setdefault(variable, set()).add(name.removeprefix("bulkhead-"))
    everyone = {"api", "gateway", "brain", "sandboxes", "egress", "memory-worker", "slack", "migrate", "clear"}
    assert readers == {
        "BULKHEAD_DATABASE_URL": everyone,
        "BULKHEAD_MASTER_KEY": {"api", "egress", "memory-worker", "slack"},
        "BULKHEAD_API_KEY": {"migrate", "check"},
        "BULKHEAD_KUBERNETES_KEY": {"sandboxes", "clear"},
        "ANTHROPIC_API_KEY": {"gateway"},
        "OPENAI_API_KEY": {"gateway"},
        "BULKHEAD_EMBEDDING_API_KEY": {"memory-worker"},
        "BULKHEAD_TEMPORAL_API_KEY": {"api", "brain", "sandboxes", "memory-worker"},
    }


def test_what_speaks_with_temporal_is_given_what_it_shows_there() -> None:
    for name, pod in pods(render(*EVERYTHING)).items():
        [container] = pod["containers"]
        mounts = {each["mountPath"]: each["name"] for each in container.get("volumeMounts", [])}
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
        files = {
            variable.removeprefix("BULKHEAD_TEMPORAL_"): (secrets[mounts[path]], file)
            for variable, value in variables(container).items()
            if variable.startswith("BULKHEAD_TEMPORAL_") and variable.endswith("_FILE")
            for path, _, file in [str(value).rpartition("/")]
        }
        if name.removeprefix("bulkhead-") in {"api", "brain", "sandboxes", "memory-worker"}:
            assert files == {
                "CLIENT_CERT_FILE": ("t", "tls.crt"),
                "CLIENT_KEY_FILE": ("t", "tls.key"),
                "SERVER_CA_FILE": ("a", "ca.crt"),
            }
            assert variables(container)["BULKHEAD_TEMPORAL_TLS"] == "true"
        else:
            assert not files
            assert not {mount for mount in mounts if "temporal" in mount}


def test_sandboxes_may_go_to_the_gate_and_nowhere_else(rendered: list[dict[str, Any]]) -> None:
    [policy] = [
        each for each in rendered if each["kind"] == "NetworkPolicy" and each["metadata"].get("namespace") is not None
    ]
    assert policy["spec"]["podSelector"] == {}
    assert (policy["spec"]["policyTypes"], policy["spec"]["ingress"]) == (["Ingress", "Egress"], [])
    [way] = policy["spec"]["egress"]
    assert way["ports"] == [{"port": 3129, "protocol": "TCP"}]
    [target] = way["to"]
    assert target["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "egress"
    assert target["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "bulkhead"}


def test_only_gateway_and_egress_go_outside() -> None:
    outside: set[str] = set()
    for each in render(*EMBEDDED):
        if each["kind"] == "NetworkPolicy":
            blocks = [to["ipBlock"] for way in each["spec"]["egress"] for to in way.get("to", []) if "ipBlock" in to]
            if any("except" in block for block in blocks):
                assert blocks[0]["except"] == ["169.254.0.0/16"]
                outside.add(each["metadata"]["name"])
    assert outside == {"bulkhead-gateway", "bulkhead-egress"}


def test_every_pod_is_under_a_policy(rendered: list[dict[str, Any]]) -> None:
    held = {
        each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for each in rendered
        if each["kind"] == "NetworkPolicy" and each["spec"]["podSelector"]
    }
    assert {name.removeprefix("bulkhead-") for name in pods(rendered)} <= held


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "not set: secrets.database.name (its key: database-url), secrets.masterKey.name"),
        ((EXTERNAL[0],), "temporal.address is not set: give the host:port of a Temporal frontend"),
        ((*EMBEDDED, "--set=sandbox.namespace=bulkhead"), "sandboxes need one of their own"),
        ((*EMBEDDED, "--set=ingress.enabled=true"), "ingress.host is not set"),
        (
            (*EMBEDDED, "--set=temporal.address=t:7233"),
            "embedded.enabled brings a Postgres and a Temporal of its own",
        ),
        ((*EXTERNAL, "--set=brain.settings.BULKHEAD_DRAIN_SECONDS=9"), "is what other values say"),
        (
            (*EXTERNAL, "--set=brain.autoscaling.enabled=true,brain.autoscaling.maxReplicas=1"),
            "minReplicas is more than maxReplicas",
        ),
        ((*EXTERNAL, "--set=sandbox.namespace=Not_One"), "at '/sandbox/namespace'"),
        ((*EMBEDDED, "--set=serviceMonitor.enabled=true"), "needs the Prometheus operator's resources"),
        ((*EMBEDDED, "--set=api.settings.BULKHEAD_API_KEY=x"), "would put a secret into the chart's values"),
        ((*EMBEDDED, "--set=apii.replicas=3"), "additional properties 'apii' not allowed"),
        ((*EMBEDDED, "--set=brain.replica=3"), "additional properties 'replica' not allowed"),
        ((*EMBEDDED, "--set=brain=null"), "missing property 'brain'"),
        ((*EMBEDDED, "--set=settings.FOO=1"), "at '/settings': additional properties 'FOO' not allowed"),
        ((*EMBEDDED, "--set=sandbox.quota.pods=many"), "at '/sandbox/quota/pods'"),
        ((*EMBEDDED, "--set=embedded.persistence.size=lots"), "at '/embedded/persistence/size'"),
        ((*EMBEDDED, "--set=image.tag=a b"), "at '/image/tag'"),
        ((*EMBEDDED, "--set=ingress.host=http://here"), "at '/ingress/host'"),
        (("--set=temporal.address=http://here:7233",), "at '/temporal/address'"),
        ((*EMBEDDED, "--set=sandbox.canary=none"), "canary"),
        ((*EMBEDDED, "--set=image.pullPolicy=Sometimes"), "pullPolicy"),
        ((*EMBEDDED, "--set=settings.PATH=/"), "additional properties 'PATH' not allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: tuple[str, ...], said: str) -> None:
    assert said.lower() in refusal(*options).lower()


def test_replicas_are_left_to_who_scales_them() -> None:
    deployments = {
        each["metadata"]["name"]: each["spec"].get("replicas")
        for each in render(*EVERYTHING)
        if each["kind"] == "Deployment"
    }
    assert deployments["bulkhead-api"] is deployments["bulkhead-brain"] is deployments["bulkhead-gateway"] is None
    assert deployments["bulkhead-sandboxes"] == 2


def test_what_is_set_for_one_part_goes_before_what_is_set_for_all() -> None:
    options = (
        '--set-json=settings={"BULKHEAD_A": true, "BULKHEAD_B": 10000000}',
        "--set=brain.settings.BULKHEAD_A=false",
    )
    parts = pods(render(*EXTERNAL, *options))
    told = {name: variables(containers(parts[f"bulkhead-{name}"])[0]) for name in ("brain", "api")}
    assert (told["brain"]["BULKHEAD_A"], told["api"]["BULKHEAD_A"]) == ("false", "true")
    assert told["brain"]["BULKHEAD_B"] == "10000000"


def test_what_comes_in_from_outside_is_the_api_and_slack_alone() -> None:
    [ingress] = [each for each in render(*EVERYTHING) if each["kind"] == "Ingress"]
    paths = {way["path"]: way["backend"]["service"]["name"] for way in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert paths == {"/v1": "bulkhead-api", "/slack": "bulkhead-slack"}


def test_prometheus_is_told_where_the_metrics_are() -> None:
    [monitor] = [
        each
        for each in render(*EMBEDDED, "--set=serviceMonitor.enabled=true", "--api-versions=monitoring.coreos.com/v1")
        if each["kind"] == "ServiceMonitor"
    ]
    [endpoint] = monitor["spec"]["endpoints"]
    [service] = [each for each in render(*EMBEDDED) if each["kind"] == "Service" and is_of(each, "api")]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def is_of(each: dict[str, Any], part: str) -> bool:
    """Whether an object is of a part."""
    return each["metadata"]["labels"]["app.kubernetes.io/component"] == part


def test_the_worker_is_told_what_sandboxes_are_made_of() -> None:
    [container] = containers(pods(render(*EVERYTHING))["bulkhead-sandboxes"])
    told = variables(container)
    assert told["BULKHEAD_KUBERNETES_RUNTIME_CLASS"] == "gvisor"
    assert told["BULKHEAD_KUBERNETES_NODE_SELECTOR"] == "pool=sandboxes"
    assert told["BULKHEAD_KUBERNETES_PULL_SECRETS"] == "registry"
    assert told["BULKHEAD_KUBERNETES_USER_NAMESPACES"] == "true"
    for name, pod in pods(render(*EVERYTHING)).items():
        assert pod["imagePullSecrets"] == [{"name": "registry"}], name


def test_embedded_servers_are_open_to_those_who_ask_them_alone() -> None:
    [policy] = [each for each in render(*EMBEDDED) if each["kind"] == "NetworkPolicy" and is_of(each, "embedded")]
    askers = {
        way["ports"][0]["port"]: set(way["from"][0]["podSelector"]["matchExpressions"][0]["values"])
        for way in policy["spec"]["ingress"]
    }
    assert askers == {
        5432: {"api", "gateway", "brain", "sandboxes", "egress", "memory-worker", "migrate", "clear"},
        7233: {"api", "brain", "sandboxes", "memory-worker", "clear"},
    }


@pytest.mark.parametrize(
    ("options", "peers"),
    [
        ((), [{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
        (("--set=database.cidrs={10.1.2.3/32}",), [{"ipBlock": {"cidr": "10.1.2.3/32"}}]),
        (('--set-json=database.to=[{"podSelector": {}}]',), [{"podSelector": {}}]),
    ],
)
def test_postgres_is_where_it_is_said_to_be(options: tuple[str, ...], peers: list[object]) -> None:
    [policy] = [
        each for each in render(*EXTERNAL, *options) if each["kind"] == "NetworkPolicy" and is_of(each, "gateway")
    ]
    [way] = [way for way in policy["spec"]["egress"] if way.get("ports") == [{"port": 5432, "protocol": "TCP"}]]
    assert way["to"] == peers


def test_a_namespace_that_stays_keeps_the_policy_of_its_sandboxes() -> None:
    for created in (True, False):
        [policy] = [
            each
            for each in render(*EMBEDDED, f"--set=sandbox.createNamespace={str(created).lower()}")
            if each["kind"] == "NetworkPolicy" and is_of(each, "sandbox")
        ]
        kept = policy["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        assert kept == (None if created else "keep")


@pytest.fixture(scope="module")
def strict_namespaces() -> Generator[tuple[str, str]]:
    """Two namespaces, for a release and for sandboxes, that take pods of Pod Security `restricted` alone."""
    require_cluster()
    names = ("bulkhead-dryrun", "bulkhead-dryrun-sandboxes")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in names:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        kubectl("apply", "--filename=-", stdin=json.dumps(space))
    yield names
    kubectl("delete", "namespace", "--wait=false", *names)


@pytest.mark.parametrize("options", SETS.values(), ids=SETS)
def test_the_api_server_takes_every_object(options: tuple[str, ...], strict_namespaces: tuple[str, str]) -> None:
    release, sandboxes = strict_namespaces
    found = render(*options, f"--set=sandbox.namespace={sandboxes}", namespace=release)
    pods_alone: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"only-{name}"}, "spec": {**spec, **ALONE}}
        for name, spec in pods(found).items()
        if any(volume["name"] == "data" for volume in spec["volumes"])  # not a claim of its stateful set
    ]
    for each in [*found, *pods_alone]:
        if each["kind"] != "Namespace":
            each["metadata"].setdefault("namespace", release)
    listing = {"apiVersion": "v1", "kind": "List", "items": [*found, *pods_alone]}
    said = call("kubectl", "apply", "--dry-run=server", "--filename=-", stdin=json.dumps(listing))
    assert said.stdout.count("server dry run") == len(listing["items"])
    assert "violate" not in said.stderr, "Pod Security `restricted` takes every pod"
