# SPDX-License-Identifier: GPL-3.0-or-later
"""What k3s's own controllers do to Nodes, etcd members and manifests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from . import log
from .api import MERGE_PATCH, STRATEGIC_PATCH, Api
from .config import Config
from .datastore import Etcd, StoreError
from .endpoint import SECRETS
from .release import Release

NAME, ADDRESS = "etcd.k3s.cattle.io/node-name", "etcd.k3s.cattle.io/node-address"
REMOVE, REMOVED = "etcd.k3s.cattle.io/remove", "etcd.k3s.cattle.io/removed-node-name"


class Nodes:
    """Role labels of the own Node; the password Secret goes with a deleted Node."""

    def __init__(self, config: Config, api: Api, labels: dict[str, str]) -> None:
        self.config, self.api, self.labels = config, api, labels
        self.seen: set[str] = set()

    def update(self) -> None:
        status, nodes = self.api("GET", "/api/v1/nodes")
        if status != 200:
            return
        names = {node["metadata"]["name"] for node in nodes["items"]}
        for node in nodes["items"]:
            has = node["metadata"].get("labels", {})
            if node["metadata"]["name"] == self.config.node_name and any(has.get(key) != value for key, value in self.labels.items()):
                self.api("PATCH", f"/api/v1/nodes/{self.config.node_name}", {"metadata": {"labels": self.labels}}, MERGE_PATCH)
        for gone in self.seen - names:
            self.api("DELETE", f"{SECRETS}/{gone}.node-password.k3s")
        self.seen = names


class EtcdNodes:
    """Members of etcd and their Nodes (k3s's pkg/etcd: metadata and member controllers, manageLearners)."""

    def __init__(self, config: Config, api: Api, etcd: Etcd) -> None:
        self.config, self.api, self.etcd = config, api, etcd
        self.seen: dict[str, tuple[str, str]] = {}

    def update(self) -> None:
        members = self.etcd.admin.members()
        if self._leads():
            self._promote(members)
        status, nodes = self.api("GET", "/api/v1/nodes")
        if status != 200:
            return
        present = {node["metadata"]["name"]: node for node in nodes["items"]}
        for name, node in present.items():
            if node["metadata"].get("annotations", {}).get(REMOVE) == "true":
                self._remove_asked(name, node["metadata"]["annotations"])
        if self.config.node_name in present:
            self._describe(present[self.config.node_name], members)
        self._remove_gone(present)

    def _leads(self) -> bool:
        status = json.loads(self.etcd.admin("status"))
        return bool(status["leader"] == status["header"]["member_id"])

    def _promote(self, members: list[dict[str, Any]]) -> None:
        for member in members:
            # one that has not started has no name yet, and one that has not caught up is refused: tried again
            if member.get("isLearner") and member.get("name"):
                with contextlib.suppress(StoreError):
                    self.etcd.admin("promote", str(member["ID"]))
                    log.info(f"Promoted learner {member['name']}")

    def _describe(self, node: Mapping[str, Any], members: list[dict[str, Any]]) -> None:
        annotations = node["metadata"].get("annotations", {})
        wanted: dict[str, str | None] = {NAME: self.etcd.name, ADDRESS: self.etcd.address}
        if annotations.get(REMOVED) == self.etcd.name:
            return  # removed, about to end
        if REMOVED in annotations:
            wanted.update({REMOVED: None, REMOVE: None})  # a new member of the same node
        if any(annotations.get(key) != value for key, value in wanted.items()):
            self._patch(self.config.node_name, {"metadata": {"annotations": wanted}})
        voter = any(member.get("name") == self.etcd.name and not member.get("isLearner") for member in members)
        has = [c for c in node["status"].get("conditions", []) if c["type"] == "EtcdIsVoter"]
        value = "True" if voter else "False"
        if not has or has[0]["status"] != value:
            self._condition(value)

    def _condition(self, value: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        reason, message = ("MemberNotLearner", "Node is a voting member of the etcd cluster")
        if value == "False":
            reason, message = ("MemberIsLearner", "Node has not been promoted to voting member of the etcd cluster")
        condition = {"type": "EtcdIsVoter", "status": value, "reason": reason, "message": message}
        condition.update({"lastHeartbeatTime": now, "lastTransitionTime": now})
        self.api("PATCH", f"/api/v1/nodes/{self.config.node_name}/status", {"status": {"conditions": [condition]}}, STRATEGIC_PATCH)

    def _remove_asked(self, name: str, annotations: Mapping[str, str]) -> None:
        if NAME not in annotations:
            return
        log.info("Removing etcd member from cluster due to node annotation")
        self._remove(annotations[NAME], annotations.get(ADDRESS, ""))
        log.info("etcd member removed successfully")
        self._patch(name, {"metadata": {"annotations": {REMOVED: annotations[NAME], NAME: None, ADDRESS: None}}})

    def _remove_gone(self, present: Mapping[str, Any]) -> None:
        """A deleted Node's member goes with it, but never the own one."""
        for name in set(self.seen) - set(present):
            if name != self.config.node_name:
                self._remove(*self.seen[name])
        self.seen = {}
        for name, node in present.items():
            annotations = node["metadata"].get("annotations", {})
            if NAME in annotations:
                self.seen[name] = (annotations[NAME], annotations.get(ADDRESS, ""))

    def _remove(self, name: str, address: str) -> None:
        for member in self.etcd.admin.members():
            if member.get("name") == name and any(urlsplit(url).hostname == address for url in member.get("peerURLs", [])):
                log.info(f"Removing name={name} id={member['ID']} address={address} from etcd")
                with contextlib.suppress(StoreError):  # another server was first
                    self.etcd.admin("remove", str(member["ID"]))

    def _patch(self, name: str, change: Mapping[str, Any]) -> None:
        self.api("PATCH", f"/api/v1/nodes/{name}", change, MERGE_PATCH)


class Manifests:
    """Applies ``server/manifests``, again when a file changes; a file named ``<file>.skip`` beside one keeps it out."""

    def __init__(self, config: Config, release: Release) -> None:
        self.folder = f"{config.server_dir}/manifests"
        self.kubectl = [release.program("kubectl"), "--kubeconfig", f"{config.server_dir}/cred/admin.kubeconfig"]
        self.applied: dict[str, str] = {}

    def update(self) -> None:
        for file in sorted(glob.glob(f"{self.folder}/**/*.y*ml", recursive=True)):
            with open(file, "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
            if self.applied.get(file) == digest or os.path.exists(f"{file}.skip"):
                continue
            done = subprocess.run([*self.kubectl, "apply", "-f", file], capture_output=True, text=True, check=False)
            if done.returncode:
                log.error(f"Failed to process config: failed to process {file}: {done.stderr.strip()}")
            else:
                log.info(f"Applied manifest {file}")
                self.applied[file] = digest
