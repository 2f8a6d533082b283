# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images made without a registry or an engine: one static program each, in the layout of ``docker save``."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Image:
    """*program* (a file on this machine) becomes the entry point ``/app`` with *arguments*. *name* has its registry and tag."""

    name: str
    program: Path
    arguments: tuple[str, ...]


def write_archive(path: Path, images: list[Image], architecture: str) -> None:
    """Write *images* as one tar that ``docker load`` and containerd import. The same input gives the same bytes."""
    manifest: list[dict[str, Any]] = []
    written: set[str] = set()
    with tarfile.open(path, "w") as archive:
        for image in images:
            layer = _layer(image.program)
            layer_name = f"{hashlib.sha256(layer).hexdigest()}.tar"
            config = _config(image, layer, architecture)
            config_name = f"{hashlib.sha256(config).hexdigest()}.json"
            for name, data in ((layer_name, layer), (config_name, config)):
                if name not in written:
                    _add(archive, name, data, 0o644)
                    written.add(name)
            manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": [layer_name]})
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _layer(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add(layer, "app", program.read_bytes(), 0o755)
    return buffer.getvalue()


def _config(image: Image, layer: bytes, architecture: str) -> bytes:
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/app", *image.arguments], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "pifleet lab"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode, 0
    archive.addfile(entry, io.BytesIO(data))
