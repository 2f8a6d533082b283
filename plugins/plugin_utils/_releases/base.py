# SPDX-License-Identifier: GPL-3.0-or-later
"""The base Compose project of an environment as a commit has it, and the project of each host role that is rendered from it. Pure but for
``read``."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image, Project
from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_source import Checkout
from ansible_collections.pifleet.ops.plugins.plugin_utils._yaml_text import Dumper

#: the names that Compose looks for: compose-go, cli/options.go
_BASE = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_OVERRIDES = tuple(name.replace("compose.", "compose.override.") for name in _BASE)
#: what is rendered, in the place of the base file
RENDERED = "compose.yaml"
_OPTIONS = "x-pifleet"
#: bytes of a base project: it goes to each node with the module that writes it
_MOST = 4 << 20


@dataclass(frozen=True, slots=True)
class Base:
    """*compose*: the base file; *services*: names in it; *files*: (mode, content) of the other files by path below the folder."""

    folder: str
    compose: Mapping[str, Any]
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def services(self) -> Mapping[str, Any]:
        found = self.compose.get("services")
        return found if isinstance(found, Mapping) else {}


def read(root: Path, folder: str, commit: str) -> Base:
    """Return the base project *folder* of the repository at *root* as *commit* has it. Raises PifleetError for one that cannot be used."""
    folder = folder.strip("/")
    with tempfile.TemporaryDirectory(prefix="pifleet-") as temporary:
        archive = Path(temporary, "archive.tar")
        Checkout(root, folder).archive(commit, archive)
        found = {path.removeprefix(f"{folder}/"): (entry.mode, data) for path, entry, data in desired_tree.contents(archive)}
    return parse(folder, found)


def parse(folder: str, files: Mapping[str, tuple[str, bytes]]) -> Base:
    """Return the base project that *files*, by path below *folder*, are. Raises PifleetError."""
    named = [name for name in _BASE if name in files]
    if len(named) != 1:
        what = "has no compose file" if not named else f"has {' and '.join(named)}"
        raise PifleetError(f"The base project {folder} {what} in the commit.", "It needs one: compose.yaml. Is it committed?")
    if more := [name for name in _OVERRIDES if name in files]:
        raise PifleetError(f"{folder}/{more[0]} would change what is released.", "Put it into the compose file itself.")
    if links := [name for name, (mode, _data) in sorted(files.items()) if mode not in ("644", "755")]:
        raise PifleetError(f"{folder}/{links[0]} is a symbolic link.", "Put the file itself there.")
    if sum(len(data) for _mode, data in files.values()) > _MOST:
        raise PifleetError(f"The base project {folder} has more than {_MOST >> 20} MB.", "Put what is large into an image.")
    place = f"{folder}/{named[0]}"
    try:
        table = yaml.safe_load(files[named[0]][1])
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PifleetError(f"{place} is no YAML: {' '.join(str(error).split())}.") from error
    if (
        not isinstance(table, Mapping)
        or not isinstance(table.get("services"), Mapping)
        or not all(isinstance(service, Mapping) for service in table["services"].values())
    ):
        raise PifleetError(f"{place} has no table of services.")
    return Base(folder, table, {name: found for name, found in files.items() if name != named[0]})


def render(base: Base, project: Project, images: Mapping[str, Image]) -> str:
    """Return the Compose file of *project*: the services of its role alone, their images pinned, keys in a stable order."""
    services = {name: _service(dict(base.services[name]), project, images.get(name)) for name in sorted(project.services)}
    top = {key: value for key, value in base.compose.items() if key not in ("services", "name", "version", _OPTIONS)}
    ignored = (base.compose.get(_OPTIONS) or {}).get("drift_ignore")
    options = {**({"drift_ignore": ignored} if ignored else {}), **({"rolling": dict(project.drain)} if project.drain else {})}
    return yaml.dump(
        {**top, **({_OPTIONS: options} if options else {}), "services": services},
        Dumper=Dumper,
        sort_keys=True,
        allow_unicode=True,
        width=1000,
    )


def files_of(base: Base, rendered: str) -> dict[str, tuple[str, bytes]]:
    """Return all files of a project on a node: those of the base project, and what was rendered."""
    return {**base.files, RENDERED: ("644", rendered.encode())}


def sha256(rendered: str) -> str:
    return hashlib.sha256(rendered.encode()).hexdigest()


def _service(table: dict[str, Any], project: Project, image: Image | None) -> dict[str, Any]:
    if image and image.backend:
        table.pop("build", None)
        table["image"] = image.pinned
    needs = table.pop("depends_on", None)
    if isinstance(needs, Mapping):
        needs = {other: how for other, how in needs.items() if other in project.services}
    elif needs:
        needs = [other for other in needs if other in project.services]
    if needs:
        table["depends_on"] = needs
    return table
