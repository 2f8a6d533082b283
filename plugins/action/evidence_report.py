# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: writes a report of what the controller's ledger has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.evidence_info import newest, wanted_of
from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.evidence_report import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import rendered

#: filled from the ledger, and forms for what is done by hand
TEMPLATES = Path(__file__).resolve().parents[2] / "docs" / "governance"

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import anchor, report, verify
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.alert_tests import TESTED
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        if not _NAME.fullmatch(params["name"]):
            raise PifleetError(f"name is {params['name']!r}, which is no name of a file.", "Letters, digits, dots, - and _ make one.")
        place = self.use_ledger()
        review = self._review(params)
        folder = self._root / params["path"]
        markdown = self._filled(params["template"], review) if params["template"] else report.to_markdown(review)
        files = {folder / f"{params['name']}.md": markdown}
        if not params["template"]:
            files[folder / f"{params['name']}.html"] = report.to_html(review)
        changed = False
        for path, text in files.items():
            if atomic_file.read_bytes(path) == text.encode():
                continue
            changed = True
            if not self._task.check_mode:
                self._write(path, text)
        paths = [str(path) for path in files]
        html = None if params["template"] else paths[1]
        return {"changed": changed, "ledger": place, "markdown": paths[0], "html": html, "findings": list(review.findings)}

    def _filled(self, name: str, review: Any) -> str:
        """Return the template *name*, filled with what the runs of *review* left."""
        path = TEMPLATES / f"{name}-template.md"
        text = atomic_file.read_text(path)
        if text is None:
            known = sorted(p.name.removesuffix("-template.md") for p in TEMPLATES.glob("*-template.md"))
            raise PifleetError(f"There is no template {name}.", f"Templates are {', '.join(known)}.")
        queries = Queries(self._store)
        shown = [queries.show(run["run_id"]) for run in reversed(review.runs)]
        contents = {artifact["sha256"]: artifact["content"] for run in shown for artifact in run["artifacts"]}
        tests = [event["data"] for run in shown for event in run["events"] if event["kind"] == TESTED]
        return rendered(text, report.for_template(review, contents, tests), path.name)

    def _review(self, params: dict[str, Any]) -> Any:
        queries = Queries(self._store)
        wanted = wanted_of({**params, "offset": 0})
        if wanted.run_id == "last":
            wanted = replace(wanted, run_id=newest(queries, self._inventory()))
        if params["template"]:
            # a template is about one fleet; others may have the same ledger
            wanted = replace(wanted, inventory=self._inventory())
        page = queries.runs(wanted)
        with self._store.read() as db:
            verified = verify.verify(Ledger(db), anchor.Git(self._root).read())
        chosen = {k: params[k] for k in ("run_id", "host", "kind", "status", "since", "until") if params[k]}
        title = "Evidence" + (f" ({', '.join(f'{name} {value}' for name, value in chosen.items())})" if chosen else "")
        return report.Review(
            title, page.items, page.total, [f.text for f in verified.findings], verified.notes, verified.heads, verified.events,
            verified.statements,
        )  # fmt: skip

    def _write(self, path: Any, text: str) -> None:
        try:
            atomic_file.write_atomic(path, text)
        except OSError as error:
            raise PifleetError(
                f"The report {path} cannot be written: {error.strerror or error}.", "Make room or give write access, and run again."
            ) from error
