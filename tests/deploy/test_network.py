"""deploy/kubernetes/network.yaml: who may reach whom, worked out from the policies as Kubernetes does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.deploy.manifests import read_documents

POLICIES = [policy["spec"] for policy in read_documents("kubernetes/network.yaml")]
(DEPLOYMENT,) = [item for item in read_documents("kubernetes/worker.yaml") if item["kind"] == "Deployment"]
METRICS, REDIS, DNS = 9108, 6379, 53

Pod = Mapping[str, str]
OURS = "sortline"  # the namespace that the manifests are applied in


def pod(component: str) -> Pod:
    return {"app.kubernetes.io/name": "sortline", "app.kubernetes.io/component": component}


WORKER, PRODUCER, VIEWER, SERVER = pod("worker"), pod("producer"), pod("viewer"), pod("server")
STRANGER = {"app.kubernetes.io/name": "something-else"}
UNKNOWN = pod("something-new")
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
NAMES = {"k8s-app": "kube-dns"}


def selects(selector: Mapping[str, Any], labels: Pod) -> bool:
    """Whether a label selector matches; only `In` of the operators."""
    assert all(expression["operator"] == "In" for expression in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def is_peer(peer: Mapping[str, Any], labels: Pod, namespace: str) -> bool:
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, "an address would need a rule of its own here"
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    else:
        in_namespace = namespace == OURS
    return in_namespace and selects(peer.get("podSelector", {}), labels)


def allows(direction: str, of: Pod, other: Pod, *, namespace: str, port: int, protocol: str) -> bool:
    """Whether the policies of pod `of` let it be reached by (Ingress), or reach (Egress), the other one."""
    policies = [spec for spec in POLICIES if selects(spec["podSelector"], of) and direction in spec["policyTypes"]]
    rules = [rule for spec in policies for rule in spec.get(direction.lower(), [])]
    peers = "from" if direction == "Ingress" else "to"
    return not policies or any(
        any(is_peer(peer, other, namespace) for peer in rule[peers])
        and {"protocol": protocol, "port": port} in rule["ports"]
        for rule in rules
    )


def is_reached(
    target: Pod, source: Pod, port: int, *, source_namespace: str = OURS, target_namespace: str = OURS, by: str = "TCP"
) -> bool:
    """Whether a connection is let out by the source's policies and in by the target's."""
    let_out = source_namespace != OURS or allows(
        "Egress", source, target, namespace=target_namespace, port=port, protocol=by
    )
    let_in = target_namespace != OURS or allows(
        "Ingress", target, source, namespace=source_namespace, port=port, protocol=by
    )
    return let_out and let_in


def test_the_worker_has_the_labels_that_the_policies_select() -> None:
    assert DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items() >= WORKER.items()
    (port,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert port["containerPort"] == METRICS


@pytest.mark.parametrize("client", [WORKER, PRODUCER, VIEWER])
def test_clients_reach_the_server_and_names(client: Pod) -> None:
    assert is_reached(SERVER, client, REDIS)
    for protocol in ("UDP", "TCP"):
        assert is_reached(NAMES, client, DNS, target_namespace="kube-system", by=protocol)


@pytest.mark.parametrize(
    ("source", "namespace"), [(STRANGER, OURS), (UNKNOWN, OURS), (WORKER, "elsewhere"), (PROMETHEUS, "monitoring")]
)
def test_nobody_else_reaches_the_server(source: Pod, namespace: str) -> None:
    assert not is_reached(SERVER, source, REDIS, source_namespace=namespace)


def test_prometheus_alone_reaches_the_metrics() -> None:
    assert is_reached(WORKER, PROMETHEUS, METRICS, source_namespace="monitoring")
    others = [(PROMETHEUS, OURS), (STRANGER, "monitoring"), (STRANGER, OURS), (PRODUCER, OURS), (WORKER, OURS)]
    assert not any(is_reached(WORKER, source, METRICS, source_namespace=namespace) for source, namespace in others)


@pytest.mark.parametrize("component", [WORKER, PRODUCER, VIEWER, SERVER, UNKNOWN])
def test_nothing_else_is_reached_and_reaches_nothing_else(component: Pod) -> None:
    assert not is_reached(component, STRANGER, 8080)
    assert not is_reached(STRANGER, component, 443)
    assert not is_reached(STRANGER, component, REDIS, target_namespace="elsewhere")


def test_a_new_component_is_shut_in_until_a_rule_names_it() -> None:
    assert not is_reached(SERVER, UNKNOWN, REDIS)
    assert not is_reached(NAMES, UNKNOWN, DNS, target_namespace="kube-system", by="UDP")


def test_other_pods_of_the_namespace_are_left_alone() -> None:
    assert is_reached(STRANGER, STRANGER, 8080)
