# SPDX-License-Identifier: GPL-3.0-or-later
"""Helm releases of the fleet: which chart and version, what an upgrade would change, and the upgrade, all through the program ``helm``.

``parse``, ``compare`` and ``objects_of`` are pure; ``Helm`` runs the program on the controller, with what ``Runner`` gives.

The difference is that of ``helm diff upgrade`` (https://github.com/databus23/helm-diff): the manifests and hooks of the revision that was
deployed last against those that the chart renders now. It is made here, object by object, so that no value of a Secret is ever in it and no
plugin is needed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, scrub

FILE = "release.yaml"
_KEYS = ("chart", "version", "repository", "namespace", "values", "sha256")
#: one version and no range: https://semver.org, as Chart.yaml has it
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,51}[a-z0-9])?")
#: of a Secret
_SECRET_FIELDS = ("data", "stringData")

CREATED, CONFIGURED, REMOVED, UNCHANGED = "created", "configured", "removed", "unchanged"


class HelmError(PifleetError):
    """A release that cannot be read, rendered, compared or applied."""


class UnreachableError(HelmError):
    """No API answers, so nothing is known of a release."""


@dataclass(frozen=True, slots=True)
class Release:
    """One folder of ``charts/``. *name*: its own, and the release's; *values*: files of it, later ones win; *sha256*: of the archive."""

    name: str
    folder: Path
    chart: str
    version: str
    repository: str
    namespace: str
    values: tuple[Path, ...]
    sha256: str = ""

    @property
    def archive(self) -> str:
        """The name that ``helm pull`` and ``helm package`` give the chart's archive."""
        return f"{self.chart}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What the cluster has of a release.

    *revision*: that was deployed last, 0 where none was; *chart*: its name and version; *manifest*: its objects and hooks; *unfinished*:
    the state of a later revision that never was deployed, such as ``failed``; *since*: when that began.
    """

    revision: int = 0
    chart: str = ""
    manifest: str = ""
    unfinished: str = ""
    since: datetime | None = None

    @property
    def pending(self) -> bool:
        """Whether a helm is at it, or was killed at it: no other may begin then."""
        return self.unfinished.startswith("pending")


@dataclass(frozen=True, slots=True)
class Comparison:
    """*states*: (ref, state) of each object, by ref; *changes*: those that differ, without secrets."""

    states: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...]

    @property
    def diff(self) -> str:
        """The whole difference as unified text, empty where there is none."""
        return "".join(_unified(change) for change in self.changes)


# ------------------------------------------------------------------ what is wanted


def read(folder: Path) -> Release:
    """Return the release of one folder of ``charts/``. Raises HelmError naming the file, and what is wrong in it."""
    path = folder / FILE
    try:
        return parse(folder, yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        hint = f"Write {FILE} with chart, version, repository and namespace, as charts/kube-prometheus-stack has it."
        raise HelmError(f"{folder} has no {FILE}, so it is not known which chart it is for.", hint) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HelmError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


def parse(folder: Path, table: Any) -> Release:
    """Return what the content *table* of a release file says. Raises HelmError."""
    where = folder / FILE
    if not isinstance(table, Mapping):
        raise HelmError(f"{where} holds no table.", f"Its keys are {', '.join(_KEYS)}.")
    for key in table:
        if key not in _KEYS:
            raise HelmError(f"{where}: there is no key {key}.", f"There are {', '.join(_KEYS)}.")
    texts = {key: str(table.get(key) or "") for key in _KEYS if key != "values"}
    for key in ("chart", "version", "namespace"):
        if not texts[key]:
            raise HelmError(f"{where}: {key} is missing.", f"Its keys are {', '.join(_KEYS)}.")
    if not _VERSION.fullmatch(texts["version"]):
        raise HelmError(f"{where}: version {texts['version']} is not one version.", "Pin it, as 1.2.3.")
    if not _NAME.fullmatch(folder.name):
        raise HelmError(f"{folder.name} is no name for a release.", "At most 53 small letters, digits and dashes: rename the folder.")
    files = table.get("values", ["values.yaml"])
    if not isinstance(files, list):
        raise HelmError(f"{where}: values is no list.", "It names files of that folder.")
    values = tuple(folder / str(name) for name in files)
    for path in values:
        if not path.is_file():
            raise HelmError(f"{where}: there is no file {path.name}.", "Correct values.")
    return Release(folder.name, folder, values=values, **texts)


def names_below(charts: Path) -> tuple[str, ...]:
    """Return the releases that the folder *charts* has, by name."""
    return tuple(sorted(path.name for path in charts.iterdir() if path.is_dir())) if charts.is_dir() else ()


# ------------------------------------------------------------------ what differs


def objects_of(text: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a manifest as Helm prints it, by ``Kind/namespace/name``. Raises HelmError where it is no YAML."""
    found: dict[str, dict[str, Any]] = {}
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise HelmError(f"The chart renders something that is no YAML: {scrub(' '.join(str(error).split()))}.") from None
    for document in documents:
        for entry in document["items"] if isinstance(document, dict) and document.get("kind") == "List" else [document]:
            if isinstance(entry, dict) and entry.get("kind") and isinstance(entry.get("metadata"), dict):
                meta = entry["metadata"]
                parts = (str(entry["kind"]), str(meta.get("namespace") or ""), str(meta.get("name") or ""))
                found["/".join(part for part in parts if part)] = entry
    return found


def compare(before: str, after: str) -> Comparison:
    """Return what differs between two manifests as Helm prints them, whatever the order of their objects."""
    old, new = objects_of(before), objects_of(after)
    states, changes = [], []
    for ref in sorted(old.keys() | new.keys()):
        state = CREATED if ref not in old else REMOVED if ref not in new else CONFIGURED if old[ref] != new[ref] else UNCHANGED
        states.append((ref, state))
        if state != UNCHANGED:
            shown = presentable(old.get(ref), new.get(ref), "before"), presentable(new.get(ref), old.get(ref), "after")
            changes.append(Change("object", ref, state, *shown))
    return Comparison(tuple(states), tuple(changes))


#: kinds of Kubernetes, and of what charts bring, that are in no namespace
_CLUSTER_WIDE = frozenset(
    {
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "CSIDriver",
        "CustomResourceDefinition",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    }
)


def kept_objects(manifest: str, namespace: str, refs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return those objects of a manifest among *refs* that the cluster keeps as they are, by ref, each with its namespace.

    Hooks are not among them: they come and go.
    """
    wanted, found = frozenset(refs), {}
    for ref, entry in objects_of(manifest).items():
        if ref in wanted and "helm.sh/hook" not in (entry["metadata"].get("annotations") or {}):
            place = {} if entry["kind"] in _CLUSTER_WIDE else {"namespace": namespace}
            found[ref] = {**entry, "metadata": {**place, **entry["metadata"]}}
    return found


def presentable(entry: Mapping[str, Any] | None, other: Mapping[str, Any] | None = None, mark: str = "") -> str:
    """Return an object as text without secrets, "" for none. Values of a Secret that differ from those of *other* are shown with *mark*."""
    if entry is None:
        return ""
    shown = dict(entry)
    for field in _SECRET_FIELDS if entry["kind"] == "Secret" else ():
        if isinstance(entry.get(field), Mapping):
            theirs = (other or entry).get(field) or {}
            shown[field] = {key: MASK + ("" if theirs.get(key) == value else f" ({mark})") for key, value in entry[field].items()}
    return scrub(yaml.safe_dump(shown, sort_keys=True, allow_unicode=True, width=1000))


def scrubbed(manifest: str) -> str:
    """Return a whole manifest without secrets, for the evidence."""
    return "---\n".join(f"# {ref}\n{presentable(entry)}" for ref, entry in sorted(objects_of(manifest).items()))


def _unified(change: Change) -> str:
    lines = difflib.unified_diff(
        change.before.splitlines(), change.after.splitlines(), f"deployed/{change.target}", f"chart/{change.target}", lineterm=""
    )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Found:
    """A release as it is and as it is wanted. *chart*: wanted, with its version; *manifest*: what it renders, secrets included."""

    chart: str
    manifest: str
    deployed: Deployed
    comparison: Comparison
    reachable: bool

    @property
    def changes(self) -> bool:
        """Whether an upgrade would do something. Where the last one failed, another is due, whatever it renders."""
        return bool(self.comparison.changes) or self.deployed.chart != self.chart or bool(self.deployed.unfinished)

    @property
    def state(self) -> str:
        return UNCHANGED if not self.changes else CONFIGURED if self.deployed.revision else CREATED


# ------------------------------------------------------------------ the program


class Helm:
    """The program ``helm`` (3.14 or newer, or 4) on the controller. *kubeconfig*, *context*: of the cluster."""

    def __init__(self, run: Runner, kubeconfig: str, context: str) -> None:
        self._run = run
        self._cluster = ("--kubeconfig", kubeconfig, *(("--kube-context", context) if context else ()))

    def _said(self, *words: str, timeout: float = 120.0) -> Completed:
        return self._run(["helm", *words], timeout=timeout)

    def _answer(self, *words: str, timeout: float = 120.0) -> str:
        """What a command said that had to succeed. Raises HelmError, UnreachableError where no API answered."""
        done = self._said(*words, timeout=timeout)
        if not done.ok:
            raise _error(words[0], done)
        return done.stdout

    def pull(self, release: Release, into: Path) -> Path:
        """Download the chart's archive into the folder *into*."""
        if not release.repository:
            hint = f"Put {release.archive} beside {release.folder / FILE}, or name a repository there."
            raise HelmError(f"The chart {release.archive} is not here, and {FILE} names no repository.", hint)
        oci = release.repository.startswith("oci://")
        what = [f"{release.repository}/{release.chart}"] if oci else [release.chart, "--repo", release.repository]
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as part:  # a download that is cut off leaves no archive
            self._answer("pull", *what, "--version", release.version, "--destination", part, timeout=600.0)
            return Path(shutil.move(Path(part, release.archive), into / release.archive))

    def check(self, release: Release, chart: Path) -> None:
        """Raise HelmError where the archive or folder *chart* is not the chart, version and content that *release* pins."""
        if release.sha256 and chart.is_file():
            found = hashlib.sha256(chart.read_bytes()).hexdigest()
            if found != release.sha256.removeprefix("sha256:"):
                raise HelmError(
                    f"{chart} has the SHA-256 {found}, and not that of {release.folder / FILE}.", "Remove it, or correct sha256."
                )
        told = yaml.safe_load(self._answer("show", "chart", str(chart))) or {}
        if (told.get("name"), str(told.get("version"))) != (release.chart, release.version):
            wanted = f"{release.folder / FILE} asks for {release.chart} {release.version}"
            what = f"{chart} is {told.get('name')} {told.get('version')}, and {wanted}."
            raise HelmError(what, "Correct the version there, or bring the right archive.")

    def template(self, release: Release, chart: Path, kube_version: str, upgrade: bool) -> str:
        """Return what the chart renders, objects and hooks. Asks no cluster. *kube_version*: of the cluster it is for, as v1.34.4+k3s1."""
        version = ("--kube-version", kube_version) if kube_version else ()
        mode = ("--is-upgrade",) if upgrade else ()
        return self._answer("template", release.name, str(chart), *_placed(release), *version, *mode)

    def deployed(self, release: Release) -> Deployed:
        """Return what the cluster has of *release*."""
        where = ("--namespace", release.namespace, *self._cluster)
        done = self._said("history", release.name, "--output", "json", *where)
        if not done.ok and "release: not found" in done.stderr:
            return Deployed()
        if not done.ok:
            raise _error("history", done)
        revisions = sorted(json.loads(done.stdout), key=lambda one: int(one["revision"]))
        last = revisions[-1]
        unfinished = "" if last["status"] == "deployed" else str(last["status"])
        since = _time(str(last.get("updated") or ""))
        good = next((one for one in reversed(revisions) if one["status"] == "deployed"), None)
        if good is None:
            return Deployed(unfinished=unfinished, since=since)
        number = ("--revision", str(good["revision"]), *where)
        manifest = self._answer("get", "manifest", release.name, *number) + "\n---\n" + self._answer("get", "hooks", release.name, *number)
        return Deployed(int(good["revision"]), str(good["chart"]), manifest, unfinished, since)

    def recover(self, release: Release, found: Deployed, timeout: int) -> None:
        """Take back what a killed helm left, so that an upgrade may begin: to the deployed revision, or to nothing where none was."""
        where = ("--namespace", release.namespace, *self._cluster, "--wait", "--timeout", f"{timeout}s")
        if found.revision:
            self._answer("rollback", release.name, str(found.revision), *where, timeout=timeout + 60.0)
        else:
            self._answer("uninstall", release.name, *where, timeout=timeout + 60.0)

    def upgrade(self, release: Release, chart: Path, timeout: int) -> None:
        """Install or upgrade, and wait until all is ready; what fails is rolled back. *timeout*: seconds."""
        ready = ("--wait", "--atomic", "--timeout", f"{timeout}s")
        words = ("upgrade", "--install", release.name, str(chart), *_placed(release), "--create-namespace", "--history-max", "5", *ready)
        self._answer(*words, *self._cluster, timeout=2 * timeout + 60.0)


def _placed(release: Release) -> tuple[str, ...]:
    return ("--namespace", release.namespace, *(f"--values={path}" for path in release.values))


def _time(text: str) -> datetime | None:
    """Return when a revision was begun. Go prints nanoseconds, which Python 3.10 does not read."""
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text.replace("Z", "+00:00")))
    except ValueError:
        return None


def _error(command: str, done: Completed) -> HelmError:
    said = scrub(" ".join((done.stderr or done.stdout).split()))[-600:]
    if done.rc == 127:
        return HelmError(
            "helm is not installed on the controller.", "Install helm 3.14 or newer, or 4: https://helm.sh/docs/intro/install/."
        )
    if command not in _OFFLINE and re.search(r"cluster unreachable|connection refused|no route to host|i/o timeout", said, re.I):
        return UnreachableError(f"No API answers helm: {said.rstrip('.')}.", "Is k3s running, and does the kubeconfig lead to it?")
    return HelmError(f"`helm {command}` failed: {said}", _HINTS.get(command, ""))


#: they ask no cluster
_OFFLINE = ("pull", "show", "template")
_HINTS = {
    "pull": "Does the controller reach the repository? Without a network put the archive into observability_chart_dir.",
    "template": "Correct the values or the chart.",
    "upgrade": "What it had changed was rolled back.",
}


@contextmanager
def chart_of(helm: Helm, release: Release, chart_dir: str, kept: Path, check: bool) -> Iterator[Path]:
    """Give the chart of *release*, checked: of its own folder, else of *chart_dir*, or of *kept* where that is not given.

    What is downloaded stays in *kept*; with *check* it goes into a folder that is gone afterwards.
    """
    own = [release.folder / release.chart, release.folder / release.archive]
    places = [*own, *([Path(chart_dir).expanduser() / release.archive] if chart_dir else [kept / release.archive])]
    found = next((path for path in places if path.is_file() or (path / "Chart.yaml").is_file()), None)
    if found is None and chart_dir:
        hint = f"Bring it with `helm pull {release.chart} --repo {release.repository} --version {release.version}`."
        raise HelmError(f"{chart_dir} has no {release.archive}.", hint)
    with tempfile.TemporaryDirectory() as folder:
        chart = found or helm.pull(release, Path(folder) if check else kept)
        helm.check(release, chart)
        yield chart


def look(helm: Helm, release: Release, chart: Path, kube_version: str, expected: bool) -> Found:
    """Compare *release* with the cluster. *expected*: with False a cluster that does not answer is one that is not there yet."""
    reachable = True
    try:
        deployed = helm.deployed(release)
    except UnreachableError:
        if expected:
            raise
        deployed, reachable = Deployed(), False
    manifest = helm.template(release, chart, kube_version, upgrade=bool(deployed.revision))
    return Found(release.archive.removesuffix(".tgz"), manifest, deployed, compare(deployed.manifest, manifest), reachable)


def require_dead(release: Release, found: Deployed, timeout: int, now: datetime) -> None:
    """Raise HelmError where the helm that is at *release* may still live: it began less than *timeout* seconds ago."""
    began = found.since
    if began is not None and (now - began).total_seconds() < timeout:
        hint = f"Wait for it. If it was killed, a run after {timeout} seconds takes it back."
        raise HelmError(f"Another helm is at {release.name} since {began:%Y-%m-%dT%H:%M:%S%z} ({found.unfinished}).", hint)
