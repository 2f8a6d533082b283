# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded answers of docker, for the node's side of fix runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed


class Docker:
    """Answers as docker does. *images*: ids by name; *containers*: as docker inspect shows them; *services*: as Compose resolves them.

    *told*: exit code and output of what begins with those words (``image rm``, ``exec``), in the place of the ordinary answer.
    """

    def __init__(self) -> None:
        self.images = {"shop-web": "sha256:old"}
        self.containers: list[dict[str, Any]] = [self.container("c1", "sha256:old")]
        self.services: dict[str, Any] = {"web": {"build": {"context": "."}, "environment": {"DB_PASSWORD": "planted"}}, "other": {}}
        self.told: dict[str, tuple[int, str]] = {}
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []

    def container(self, identity: str, image: str, name: str = "shop-web-1", **state: Any) -> dict[str, Any]:
        return {
            "Id": identity,
            "Name": f"/{name}",
            "Image": image,
            "State": {"Status": "running", "ExitCode": 0, **state},
            "RestartCount": 0,
            "Config": {"Labels": {}},
            "NetworkSettings": {"Networks": {"a": {"IPAddress": "127.0.0.1"}}},
        }

    def asked(self, *words: str) -> list[list[str]]:
        """The calls that began with *words*."""
        return [call for call in self.calls if call[: len(words)] == list(words)]

    def __call__(self, argv: Sequence[str], *, timeout: float = 60.0, **_more: Any) -> Completed:
        words = list(argv)[1:]
        self.calls.append(words)
        self.timeouts.append(timeout)
        # of compose's own words, those after its options
        line = " ".join(words) if words[0] != "compose" else f"compose {' '.join(words[words.index('-f') + 2 :])}"
        for beginning, (rc, said) in self.told.items():
            if f"{line} ".startswith(f"{beginning} "):
                return Completed(tuple(argv), rc, "" if rc else said, said if rc else "")
        rc, out = self._ordinary(words, line)
        return Completed(tuple(argv), rc, "" if rc else out, out if rc else "")

    def _ordinary(self, words: list[str], line: str) -> tuple[int, str]:
        out = ""
        if words[0] == "version":
            out = "28.0.0"
        elif line.startswith("compose config"):
            out = json.dumps({"services": self.services})
        elif words[0] == "compose":
            out = "built with planted"
        elif words[:2] == ["image", "inspect"]:
            found = self.images.get(words[-1], words[-1] if words[-1] in self.images.values() else "")
            return (0, found) if found else (1, f"No such image: {words[-1]}")
        elif words[:2] == ["image", "tag"]:
            if "@" in words[3]:
                return 1, "refusing to create a tag with a digest reference"
            self.images[words[3]] = words[2]
        elif words[:2] == ["image", "rm"]:
            return (0, "") if self.images.pop(words[-1], "") else (1, f"No such image: {words[-1]}")
        elif words[0] == "ps":
            out = "\n".join(c["Id"] for c in self.containers)
        elif words[0] == "inspect":
            out = json.dumps(self.containers)
        elif words[0] == "rm":
            self.containers = []
        return 0, out
