# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: verifies the controller's ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.modules.evidence_verify import ARGUMENT_SPEC

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import anchor, verify
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger

#: findings that the message names; all are in the result
NAMED = 20


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_ledger()
        given = [verify.Anchor(a["place"], a["chain"], a["seq"], a["sha256"]) for a in params["anchors"]]
        anchors = [*anchor.Git(self._root).read(), *given]
        with self._store.read() as db:
            report = verify.verify(Ledger(db), anchors, params["trusted_keys"])
        result = {"changed": False, "ledger": place, **asdict(report), "anchors": dict(Counter(a.place for a in anchors))}
        result["heads"] = {name: {"seq": seq, "sha256": sha256} for name, (seq, sha256) in report.heads.items()}
        if report.findings:
            result.update(failed=True, msg=_message(place, report))
        return result


def _message(place: str, report: verify.Report) -> str:
    lines = [f"- {finding.text}" for finding in report.findings[:NAMED]]
    more = len(report.findings) - len(lines)
    return "\n".join(
        [
            f"The ledger {place} is not what was recorded ({len(report.findings)} findings):",
            *lines,
            *([f"- and {more} more (`findings` of the result has all)"] if more > 0 else []),
            "Keep it as it is for the auditor, and see docs/runbooks/evidence.md.",
        ]
    )
