# SPDX-License-Identifier: GPL-3.0-or-later
"""The port ``manifests.Api`` over kubectl."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import ApiError, Kubectl, unasked
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.manifests import Manifest

#: More context than any object has lines: both sides of the diff can be read whole.
_WHOLE = {"KUBECTL_EXTERNAL_DIFF": "diff -N -U 1000000"}
_SECONDS = 120.0


class KubectlApi:
    """Objects go in through standard input: they may be secrets, and an argument list is for all to see."""

    def __init__(self, kubectl: Kubectl, field_manager: str) -> None:
        self._kubectl = kubectl
        self._server_side = ("--server-side", "--force-conflicts", f"--field-manager={field_manager}", "--filename=-")

    def diff(self, objects: Sequence[Manifest]) -> Completed:
        return self._kubectl("diff", *self._server_side, "--concurrency=4", stdin=_listed(objects), timeout=_SECONDS, env=_WHOLE)

    def apply(self, objects: Sequence[Manifest], *, dry_run: bool) -> Completed:
        mode = ("--dry-run=server",) if dry_run else ()
        return self._kubectl(
            "apply", *self._server_side, "--validate=strict", "--output=name", *mode, stdin=_listed(objects), timeout=_SECONDS
        )

    def nodes(self, names: Sequence[str]) -> Completed:
        selector = f"?fieldSelector=metadata.name={names[0]}" if len(names) == 1 else ""
        return self._kubectl("get", "--raw", f"/api/v1/nodes{selector}")

    def wait_for_kinds(self, definitions: Sequence[str]) -> Completed:
        names = [f"crd/{name}" for name in definitions]
        return self._kubectl("wait", "--for=condition=Established", "--timeout=60s", *names, timeout=70.0)

    def unasked(self, done: Completed) -> ApiError | None:
        return unasked(done, self._kubectl.kubeconfig)


def _listed(objects: Sequence[Manifest]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
