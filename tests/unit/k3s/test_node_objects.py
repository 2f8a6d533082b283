# SPDX-License-Identifier: GPL-3.0-or-later
"""The Node objects that carry the inventory's labels and taints."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.filter.k3s_node_objects import k3s_node_objects, parse_taint

HOSTVARS = {
    "Pi-1.local": {},
    "pi-4.local": {"k3s_node_labels": {"disk": "ssd", "slot": 4}, "k3s_node_taints": ["only=camera:NoSchedule", "gpu:NoExecute"]},
}


def test_labels_and_taints_of_each_node():
    first, second = k3s_node_objects(HOSTVARS, ["pi-4.local", "Pi-1.local"], ["Pi-1.local"])
    assert first == {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "pi-1.local", "labels": {}}}
    assert second["metadata"]["labels"] == {"node-role.kubernetes.io/worker": "true", "disk": "ssd", "slot": "4"}
    assert second["spec"]["taints"] == [
        {"key": "only", "effect": "NoSchedule", "value": "camera"},
        {"key": "gpu", "effect": "NoExecute"},
    ]


@pytest.mark.parametrize("bad", ["", "only", "only=camera", "only=camera:Never", ":NoSchedule", "=x:NoSchedule"])
def test_what_is_no_taint_is_refused(bad):
    with pytest.raises(AnsibleFilterError, match="is no taint"):
        parse_taint(bad)
