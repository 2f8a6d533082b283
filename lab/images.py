# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images made without a registry or an engine: one static program each, in the layout of ``docker save``."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Image:
    """*program* (a file on this machine) becomes the entry point ``/app`` with *arguments*. *name* has its registry and tag.

    *command*: arguments that a container may replace; *files*: small ones beside the program, path without ``/`` -> content;
    *links*: other names of the program, paths without ``/``.
    """

    name: str
    program: Path
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    links: tuple[str, ...] = ()


def write_archive(path: Path, images: list[Image], architecture: str) -> None:
    """Write *images* as one tar that ``docker load`` and containerd import. The same input gives the same bytes."""
    manifest: list[dict[str, Any]] = []
    written: set[str] = set()
    with tarfile.open(path, "w") as archive:
        for image in images:
            layer = _layer(image)
            layer_name = f"{hashlib.sha256(layer).hexdigest()}.tar"
            config = _config(image, layer, architecture)
            config_name = f"{hashlib.sha256(config).hexdigest()}.json"
            for name, data in ((layer_name, layer), (config_name, config)):
                if name not in written:
                    _add(archive, name, data, 0o644)
                    written.add(name)
            manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": [layer_name]})
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add(layer, "app", image.program.read_bytes(), 0o755)
        for name, data in sorted(image.files.items()):
            _add(layer, name, data, 0o644)
        for name in image.links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/app"
            layer.addfile(entry)
    return buffer.getvalue()


def _config(image: Image, layer: bytes, architecture: str) -> bytes:
    settings: dict[str, Any] = {"Entrypoint": ["/app", *image.arguments], "ExposedPorts": {"8080/tcp": {}}}
    if image.command:
        settings["Cmd"] = list(image.command)
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "pifleet lab"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, 0
    archive.addfile(entry, io.BytesIO(data))
