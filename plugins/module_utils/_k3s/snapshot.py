# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot of a cluster's datastore: what belongs into its bundle, which bundle is meant, and whether it may be restored.

Pure: texts and descriptions in, decisions out. ``bundle`` reads and writes the files; the façade ``k3s_snapshot`` reaches the node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import parse

FORMAT = 1
SUFFIX = ".tar.gz"
DIRECTORY = "/var/lib/pifleet/snapshots"
MANIFEST = "manifest.json"
SQLITE_MEMBER, ETCD_MEMBER = "db/state.db", "db/etcd-snapshot"
DATASTORES = {"sqlite": SQLITE_MEMBER, "etcd": ETCD_MEMBER}
#: Parts of ``<data_dir>/server`` that a restore replaces, and sets aside before: the datastore always; what certificates and tokens are
#: made of, and with it all that was made of it, where it is not that of the snapshot.
DATA, MATERIAL = ("db",), ("tls", "cred", "token", "agent-token", "node-token")
#: In the datastore itself: which snapshot was taken last, and, on the way to another one, that this state is about to be replaced.
MARKER = "pifleet-snapshot"
MARKER_NAMESPACE = "kube-system"
SUPERSEDED = "pifleet.ops/superseded"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
#: The material that k3s's certificates and tokens come from: pkg/daemons/config, ControlRuntimeBootstrap. Everything else in these
#: folders is made from it at each start, for the node it starts on.
_MATERIAL = re.compile(
    r"server/(token|agent-token"
    r"|tls/(etcd/)?[a-z-]+-ca(\.nochain)?\.(crt|key)|tls/service(\.current)?\.key"
    r"|cred/(passwd|ipsec\.psk|encryption-config\.json|encryption-state\.json))"
)
_MEMBER = re.compile(rf"{re.escape(SQLITE_MEMBER)}|{re.escape(ETCD_MEMBER)}|node/password|{_MATERIAL.pattern}")


class SnapshotError(PifleetError):
    """A bundle that is damaged, is another one than was meant, or does not fit."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a bundle: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    *created*: UTC, as ``2026-11-21T08:36:04Z``; *datastore*: ``sqlite`` or ``etcd``; *node*: the server it was taken on, by its name in
    the API; *reason*: for people; *marked*: the datastore in it says which snapshot it is; *members*: by path in the bundle.
    """

    name: str
    fleet: str
    created: str
    k3s_version: str
    datastore: str
    node: str
    reason: str
    marked: bool
    members: Mapping[str, Member]

    def text(self) -> str:
        """Return the manifest as it is written."""
        values = {"format": FORMAT, **asdict(self)}
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    def summary(self) -> dict[str, object]:
        """Return what people want to know of a bundle; it has no secret."""
        told = {k: v for k, v in asdict(self).items() if k != "members"}
        ca = self.members.get("server/tls/server-ca.crt")
        return told | {"size": sum(m.size for m in self.members.values()), "ca_sha256": ca.sha256 if ca else ""}


def manifest_of(text: str, where: str) -> Manifest:
    """Return the manifest that *text* is. Raises SnapshotError naming *where* for anything that this collection did not write."""
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise SnapshotError(f"{where} is a snapshot of another format.", "Restore it with the version of pifleet.ops that took it.")
        members = {path: Member(**member) for path, member in values.pop("members").items()}
        manifest = Manifest(**values, members=members)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{where} has no manifest that can be read: {error!r}.", "Take another snapshot.") from error
    try:
        parse(manifest.k3s_version)
    except PifleetError as error:
        raise SnapshotError(f"{where} has no manifest that can be read: {error.what}", "Take another snapshot.") from error
    odd = sorted(path for path in members if not _MEMBER.fullmatch(path))
    if odd or not _NAME.fullmatch(manifest.name) or DATASTORES.get(manifest.datastore) not in members or "server/token" not in members:
        raise SnapshotError(
            f"{where} is no snapshot of this collection: {', '.join(odd) or 'its manifest is incomplete'}.", "Take another one."
        )
    return manifest


def is_material(path: str) -> bool:
    """Whether *path*, relative to the data folder, belongs into a bundle beside the datastore."""
    return bool(_MATERIAL.fullmatch(path))


def checked_name(name: str) -> str:
    """Return *name*, or raise PifleetError: it becomes a file name."""
    if not _NAME.fullmatch(name):
        raise PifleetError(f"{name!r} cannot be the name of a snapshot.", "Use letters, digits and . _ + - only, up to 200 of them.")
    return name


def default_name(node: str, created: str) -> str:
    """Return the name of a snapshot that was given none: node and time, so that names sort by time for one node."""
    return f"{node}-{re.sub('[-:]', '', created)}"


def verify(manifest: Manifest, found: Mapping[str, Member], where: str) -> None:
    """Raise SnapshotError unless the members *found* in a bundle are exactly those that its manifest lists."""
    for path, member in sorted(manifest.members.items()):
        if path not in found:
            raise SnapshotError(f"{where} is incomplete: {path} is missing.", "Use another snapshot.")
        if found[path] != member:
            raise SnapshotError(f"{where} is damaged: the checksum of {path} is wrong.", "Use another snapshot.")
    extra = sorted(set(found) - set(manifest.members))
    if extra:
        raise SnapshotError(f"{where} holds {extra[0]}, which its manifest does not list.", "Use another snapshot.")


def refuse_misfit(manifest: Manifest, *, fleet: str, datastore: str, k3s_version: str) -> None:
    """Raise SnapshotError where the bundle must not be restored here.

    *datastore*: what the fleet uses (``sqlite`` or ``etcd``); *k3s_version*: the version that is to run on it.
    """
    if manifest.fleet != fleet:
        raise SnapshotError(
            f"The snapshot {manifest.name} is of the fleet {manifest.fleet}, and this is {fleet}.", "Give one of this fleet."
        )
    if manifest.datastore != datastore:
        raise SnapshotError(
            f"The snapshot {manifest.name} is of {manifest.datastore}, and this fleet uses {datastore}.",
            "Several servers use etcd, a single one SQLite: put the inventory back to what it was when the snapshot was taken.",
        )
    if parse(manifest.k3s_version) > parse(k3s_version):
        raise SnapshotError(
            f"The snapshot {manifest.name} was taken with k3s {manifest.k3s_version}, newer than {k3s_version}: data does not go back.",
            f"Restore it with -e k3s_version={manifest.k3s_version}.",
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on some disk: its path and what it says of itself."""

    path: str
    manifest: Manifest


def chronological(bundles: Iterable[Bundle]) -> list[Bundle]:
    """Return *bundles*, oldest first."""
    return sorted(bundles, key=lambda b: (b.manifest.created, b.manifest.name))


def select(bundles: Iterable[Bundle], wanted: str, fleet: str) -> Bundle | None:
    """Return the bundle that *wanted* means: ``latest`` of the fleet, or the one of that name. None where there is no such."""
    if wanted == "latest":
        return next(iter(reversed([b for b in chronological(bundles) if b.manifest.fleet == fleet])), None)
    return next((b for b in bundles if b.manifest.name == wanted.removesuffix(SUFFIX)), None)


def retired(bundles: Sequence[Bundle], keep: int) -> list[Bundle]:
    """Return the oldest bundles beyond the *keep* newest. With 0 or less all are kept."""
    return chronological(bundles)[:-keep] if keep > 0 else []


def alone(join_file: str) -> str:
    """Return the text of ``10-join.yaml`` for the server that a cluster is restored on: it joins nobody, it starts the cluster.

    k3s refuses a cluster reset of a server that is told to join another one: pkg/cluster/managed.go.
    """
    kept = [line for line in join_file.splitlines() if not re.match(r"(server|cluster-init)\s*:", line)]
    return "\n".join([*kept, "cluster-init: true"]) + "\n"


def marker(name: str, created: str) -> dict[str, object]:
    """Return the ConfigMap that is in the datastore when the snapshot is taken."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": MARKER, "namespace": MARKER_NAMESPACE},
        "data": {"name": name, "created": created},
    }


def refuse_unrestored(manifest: Manifest, found: Mapping[str, object] | None) -> None:
    """Raise SnapshotError unless the marker *found* in the cluster (None: there is none) is the one of the restored snapshot, untouched."""
    if not manifest.marked:
        return
    data: Mapping[str, object] = {}
    superseded = False
    if found is not None:
        data = _mapping(found.get("data"))
        superseded = SUPERSEDED in _mapping(_mapping(found.get("metadata")).get("annotations"))
    if data.get("name") != manifest.name or superseded:
        what = "the state from before the restore" if superseded else f"the state of {data.get('name') or 'no snapshot'}"
        raise SnapshotError(
            f"The cluster shows {what}, not that of {manifest.name}.", "The restore did not take effect: look at `journalctl -u k3s`."
        )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
