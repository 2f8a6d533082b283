# SPDX-License-Identifier: GPL-3.0-or-later
"""What was there before a fix run changed anything, kept until it is over: the record of the stack and the image of the service."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Service
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import Lock

ROOT = "/var/lib/pifleet/fix-runs"
STACKS_STATE = "/var/lib/pifleet/stacks"
#: repository of the tag that keeps an image from being pruned
_KEPT = "pifleet-fix/"
_ID = re.compile(r"fix-[0-9]{6,}-[a-z0-9][a-z0-9_-]*")


class Hold:
    """*fix_run_id*: whose it is; *root*, *state*: folders on the node."""

    def __init__(self, fix_run_id: str, service: Service, root: str = ROOT, state: str = STACKS_STATE) -> None:
        if not _ID.fullmatch(fix_run_id):
            raise PifleetError(f"{fix_run_id!r} is no id of a fix run.")
        self._folder = os.path.join(root, fix_run_id)
        self._state, self._service = state, service
        self._tag = f"{_KEPT}{service.place.project}-{service.place.service}:{fix_run_id}".lower()

    @property
    def _note(self) -> str:
        return os.path.join(self._folder, "before.json")

    def seen(self) -> dict[str, Any]:
        """Return what is there. Where that is kept already, it is that: what is there now may be of this fix run's making."""
        known = self.known()
        if known is not None:
            return known
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as pool:
            defined, listed = pool.submit(self._service.defined), pool.submit(self._service.containers)
        reference, containers = str(defined.result()["image"]), listed.result()
        # the image that runs; where none does, the one that would
        image_id = next((str(c["image_id"]) for c in containers), "") or self._service.image_id(reference)
        return {
            "reference": reference,
            "image_id": image_id,
            "named": self._service.image_id(reference),
            "containers": [c["id"] for c in containers],
            "record": atomic_file.read_text(self._record),
        }

    def take(self, before: dict[str, Any]) -> None:
        """Keep *before*, which was ``seen``, unless it is kept already."""
        if self.known() is not None:
            return
        if before["image_id"]:
            self._service.tag(before["image_id"], self._tag)
        try:
            atomic_file.write_atomic(self._note, json.dumps(before), 0o600, folder_mode=0o700)
        except OSError as error:
            raise PifleetError(
                f"{self._note} cannot be written: {error.strerror}.", "Make room on the node, and retry. Nothing was changed."
            ) from None

    def known(self) -> dict[str, Any] | None:
        """Return what is kept, None where nothing is."""
        try:
            found = json.loads(atomic_file.read_text(self._note) or "null")
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def restore(self) -> dict[str, Any] | None:
        """Give the image its name back, and the stack its record, so that what is brought back counts as what was there. Return it.

        None where nothing was kept: then nothing was changed either.
        """
        if not os.path.exists(self._note):
            return None
        before = self.known()
        if before is None:
            raise PifleetError("What was there before this fix run is not known on the node.", "Its image has to be found by hand.")
        if before["image_id"]:
            # docker gives no tag to a name with a digest: that names what it always did
            if not _is_digest(before["reference"]):
                self._service.tag(before["image_id"], before["reference"])
        else:
            self._service.remove([c["id"] for c in self._service.containers()])
            self._service.untag(before["reference"])
        with self._lock():
            if before["record"] is not None:
                atomic_file.write_atomic(self._record, before["record"], 0o600, folder_mode=0o700)
        return before

    def named(self, before: Mapping[str, Any]) -> str:
        """Return the id of the image that has the name of *before* now, empty where none has.

        With a digest it is the image of before that counts: no other can have its name, but it can be gone.
        """
        reference = before.get("reference", "")
        wanted = before["image_id"] if _is_digest(reference) else reference
        return self._service.image_id(wanted) if wanted else ""

    def release(self) -> None:
        """Forget it: the fix run is over."""
        with contextlib.suppress(PifleetError):  # a name too many harms nobody
            self._service.untag(self._tag)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _record(self) -> str:
        return os.path.join(self._state, f"{self._service.place.project}.json")

    def _lock(self) -> Lock:
        # here, where it is needed: it brings all that works on stacks with it
        from ansible_collections.pifleet.ops.plugins.module_utils._stacks.local import NodeClock
        from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import Lock

        lock = Lock(self._state, self._service.place.project, labels.STACKS, NodeClock())
        lock.acquire(60.0)
        return lock


def _is_digest(reference: str) -> bool:
    return "@" in reference
