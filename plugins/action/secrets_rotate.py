# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: rotates the encrypted files of the fleet's folder, and records rotations in the ledger."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.secrets_rotate import ARGUMENT_SPEC

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rotations import ROTATED, TAKEN_BACK, Rotations
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import new_run_id
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import check, hub_token, keys, policy, rotation
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.sops import Sops

#: findings of the check that a rotation of this kind mends itself
MENDED = {"data_keys": (), "recipients": ("wrong_recipient",)}
#: findings that stand in no rotation's way: they are about other files
ELSEWHERE = ("kubernetes_secret", "detected_secret", "plain_copy")


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self.use_ledger()
        self._rotations = Rotations(self._store)
        if params["state"] == "recorded":
            return self._record(params)
        if params["what"] == "hub_token" and params["state"] == "rotated":
            return self._rotate_hub_token(params)
        if params["what"] not in MENDED:
            raise PifleetError(f"{params['what']} is in no file of the fleet's folder.", "playbooks/rotate_secrets.yml rotates it.")
        self._files = rotation.Files(self._root, self._state, Sops)
        return self._take_back() if params["state"] == "taken_back" else self._rotate(params)

    def _record(self, params: dict[str, Any]) -> dict[str, Any]:
        if not self._task.check_mode:
            moment = utc_now()
            told = {**params["details"], "what": params["what"], "rotation": new_run_id(moment)}
            self._rotations.record(self._process, ROTATED, told)
        return {"changed": False, "files": [], "resumed": False, "notes": []}

    def _rotate(self, params: dict[str, Any]) -> dict[str, Any]:
        what = params["what"]
        begun = self._files.unfinished()
        if begun and begun.what != what:
            raise PifleetError(
                f"A rotation of {begun.what} was begun on {begun.started_at} and did not come to its end.",
                f"Run it again (-e what={begun.what}), or take it back (-e what=undo).",
            )
        files = check.files_of(self._root)
        text = atomic_file.read_text(self._root / policy.FILE) or ""
        replaced = dict(begun.replaced) if begun else {str(old): str(new) for old, new in params["replace"].items()}
        if replaced and what != "recipients":
            raise PifleetError("`replace` is about recipients.", "Give what=recipients with it.")
        # what was replaced by the run that was cut off is not there any more
        text = rotation.with_recipients(text, {old: new for old, new in replaced.items() if not begun or old in text})
        report = check.check(files, text)
        self._refuse_findings(report, what)
        rules = policy.parse(text)
        paths = report.encrypted if what == "data_keys" else rotation.differing(files, report.encrypted, rules)
        paths = begun.left if begun else paths
        wrong, notes = keys.problems({r for rule in rules.rules for r in rule.recipients}, utc_now())
        if wrong:
            raise PifleetError(f"{'; '.join(wrong)}. Nothing was touched.", f"Correct {policy.FILE}, or the keyring.")
        result = {"changed": bool(paths or replaced), "files": list(paths), "resumed": bool(begun), "notes": notes}
        if not begun:
            sops = Sops(text)
            for path in paths:  # all of them, before the first is touched
                sops.decrypt(path, files[path].decode())
        if self._task.check_mode or not (paths or replaced or begun):
            return result
        moment = utc_now()
        steps = tuple(rotation.Step(path) for path in paths)
        journal = begun or self._files.begin(rotation.Journal(new_run_id(moment), what, text_of(moment), tuple(replaced.items()), steps))
        done = self._files.go_on(journal)
        told = {"what": what, "rotation": done.id, "files": [s.path for s in done.steps], "replaced": dict(done.replaced)}
        self._rotations.record(self._process, ROTATED, {**told, "resumed": bool(begun)})
        self._files.finish(done)
        return result

    def _rotate_hub_token(self, params: dict[str, Any]) -> dict[str, Any]:
        if not params["token_from"]:
            raise PifleetError(
                "There is no new token for the hub.", "Let its operator make one (`hub token add`), and give token_from=FILE with it."
            )
        policy_text = atomic_file.read_text(self._root / policy.FILE) or ""
        source, settings = Path(params["token_from"]).expanduser(), identity.load(self._root)
        done = hub_token.rotate(settings, source, policy_text, utc_now(), self._task.check_mode)
        if done.changed and not self._task.check_mode:
            told = {"what": "hub_token", "rotation": new_run_id(utc_now()), "old": done.old, "new": done.new}
            self._rotations.record(self._process, ROTATED, told)
        notes = ["The hub takes the new token. Let its operator revoke the old one (`hub token revoke`), and remove the file."]
        return {"changed": done.changed, "files": [str(done.path)] if done.changed else [], "resumed": False, "notes": notes}

    def _refuse_findings(self, report: check.Report, what: str) -> None:
        bad = [f for f in report.findings if f.rule not in (*MENDED[what], *ELSEWHERE)]
        if bad:
            first = bad[0]
            raise PifleetError(
                f"{first.path} {first.text} ({first.rule}){f', and {len(bad) - 1} more' if len(bad) > 1 else ''}. Nothing was touched.",
                "Run playbooks/secrets_check.yml, and mend what it names.",
            )

    def _take_back(self) -> dict[str, Any]:
        journal = self._files.unfinished() or self._files.last()
        if journal is None:
            raise PifleetError("There is no rotation to take back.", "The old files are kept until the next rotation only.")
        if self._task.check_mode:
            return {"changed": True, "files": [s.path for s in journal.steps if s.state != "pending"], "resumed": False, "notes": []}
        back = self._files.take_back(journal)
        told = {"what": journal.what, "rotation": journal.id, "files": list(back), "steps": [asdict(s) for s in journal.steps]}
        self._rotations.record(self._process, TAKEN_BACK, told)
        return {"changed": bool(back), "files": list(back), "resumed": False, "notes": []}
