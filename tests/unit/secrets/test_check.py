# SPDX-License-Identifier: GPL-3.0-or-later
"""Files compared with the policy: every way in which one can differ, by file, line and rule, and never with the secret itself."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import text
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.check import Finding, check

ALICE, BOB = "age1" + "q" * 58, "age1" + "p" * 58
POLICY = f"""
creation_rules:
- path_regex: ^cluster/.+\\.sops\\.yaml$
  encrypted_regex: ^(data|stringData)$
  age: {ALICE}
- path_regex: ^(stacks|inventory)/.+\\.sops\\.[^./]+$
  age: {ALICE}
"""
CIPHER = "ENC[AES256_GCM,data:Zm9v,iv:YmFy,tag:YmF6,type:str]"
SECRET = "hunter2-is-a-password"


def meta(*recipients: str, more: str = "") -> str:
    entries = "".join(f"  - recipient: {r}\n    enc: |\n      -----BEGIN AGE ENCRYPTED FILE-----\n" for r in recipients)
    return f"sops:\n  age:\n{entries}  lastmodified: '2026-01-01T00:00:00Z'\n  mac: {CIPHER}\n{more}  version: 3.10.2\n"


def dotenv(*lines: str, recipient: str = ALICE) -> str:
    tail = [f"sops_age__list_0__map_recipient={recipient}", "sops_lastmodified=2026-01-01T00:00:00Z", f"sops_mac={CIPHER}"]
    return "\n".join([*lines, *tail]) + "\n"


def found(files: dict[str, str], policy: str | None = POLICY) -> list[tuple[str, int | None, str]]:
    report = check({path: content.encode() for path, content in files.items()}, policy)
    told = json.dumps(report.to_dict()) + text.checked(report)
    assert SECRET not in told
    assert all(f.hint and f.text for f in report.findings)
    return [(f.path, f.line, f.rule) for f in report.findings]


GOOD = {
    "stacks/web/app.sops.env": dotenv(f"A={CIPHER}", "EMPTY="),
    "stacks/web/app.sops.yml": f"a: {CIPHER}\nnote_unencrypted: this is for all\nlist:\n- {CIPHER}\n#{CIPHER}\n" + meta(ALICE),
    "stacks/web/compose.yaml": "services: {web: {environment: {TOKEN: '${TOKEN}'}, secrets: [app]}}\n",
    "cluster/base/x.sops.yaml": f"kind: Secret\nmetadata: {{name: x}}\ndata:\n  a: {CIPHER}\n"
    + meta(ALICE, more="  encrypted_regex: ^(data|stringData)$\n"),
    "inventory/f/group_vars/all.yml": "k3s_token: '{{ vault }}'\nstacks_ssh_private_key_file: ~/.ssh/id\n# token: commented\npassword:\n",
}


def test_a_fleet_as_the_policy_says_has_no_finding() -> None:
    assert found(GOOD) == []
    report = check({path: content.encode() for path, content in GOOD.items()}, POLICY)
    assert (len(report.encrypted), report.scanned) == (3, 2)
    assert "all is as the policy says" in text.checked(report)


@pytest.mark.parametrize(
    ("path", "content", "line", "rule"),
    [
        ("stacks/web/app.sops.env", f"A={SECRET}\n", None, "not_encrypted"),
        ("stacks/web/app.sops.env", dotenv(f"A={CIPHER}", f"B={SECRET}"), 2, "partly_encrypted"),
        ("stacks/web/app.sops.env", dotenv(f"A={CIPHER}", f"# B={SECRET}"), 2, "partly_encrypted"),
        ("stacks/web/app.sops.yml", f"a: {CIPHER}\nb:\n  c:\n  - {CIPHER}\n  - {SECRET}\n" + meta(ALICE), 5, "partly_encrypted"),
        ("stacks/web/app.sops.yml", f"a: {CIPHER}\n# {SECRET}\n" + meta(ALICE), 2, "partly_encrypted"),
        ("stacks/web/app.sops.yml", f"a: {SECRET}\nsops: not really\n", None, "not_encrypted"),
        ("stacks/web/app.sops.yml", f"a: {CIPHER}\n" + meta(BOB), None, "wrong_recipient"),
        ("stacks/web/app.sops.yml", f"a: {CIPHER}\n" + meta(ALICE, BOB), None, "wrong_recipient"),
        ("stacks/web/app.sops.env", dotenv(f"A={CIPHER}", recipient=BOB), None, "wrong_recipient"),
        ("stacks/web/app.sops.yml", f"a: {CIPHER}\n" + meta(ALICE).replace(f"mac: {CIPHER}", "mac: ''"), None, "no_mac"),
        ("stacks/web/app.sops.json", '{"data": "x"}', None, "not_encrypted"),
        ("stacks/web/blob.sops.bin", "\x01\x02", None, "not_encrypted"),
        ("cluster/base/x.sops.yaml", f"kind: Secret\ndata:\n  a: {CIPHER}\n" + meta(ALICE), None, "other_selection"),
        ("cluster/base/x.sops.yaml", f"data:\n  a: {SECRET}\n" + meta(ALICE, more="  encrypted_regex: ^(data|stringData)$\n"), 2,
         "partly_encrypted"),
        ("cluster/base/secret.yaml", f"kind: Secret\nstringData: {{a: {SECRET}}}\n", 1, "kubernetes_secret"),
        ("cluster/base/list.yaml", "kind: List\nitems:\n- {kind: ConfigMap}\n- {kind: Secret, data: {a: eA==}}\n", 4, "kubernetes_secret"),
        ("charts/x/templates/s.yaml", f"kind: Secret\ndata:\n  a: {{{{ .Values.a }}}}\n  b: {SECRET}\n", 4, "kubernetes_secret"),
        ("stacks/web/compose.yaml", f"services:\n  web:\n    environment:\n      - DB_PASSWORD={SECRET}\n", 4, "detected_secret"),
        ("stacks/web/other.env", f"# settings\nAPI_KEY={SECRET}\n", 2, "detected_secret"),
        ("stacks/web/key.pem", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA\n", 1, "detected_secret"),
        ("inventory/f/group_vars/all.yml", f"a: b\nk3s_token: {SECRET}\n", 2, "detected_secret"),
        ("inventory/f/group_vars/all.yml", "a: b\nx: AGE-SECRET-KEY-1QQQQQQQQQQQQQQQ\n", 2, "detected_secret"),
        ("docs/governance/reviews/r.md", f"see postgres://app:{SECRET}@db/x\n", 1, "detected_secret"),
        ("docs/notes.sops.md", "x", None, "no_rule"),
        ("tests/data.sops.yml", f"a: {CIPHER}\n" + meta(ALICE), None, "no_rule"),
        ("cluster/base/y.yaml", f"a: {CIPHER}\n" + meta(ALICE), None, "no_rule"),
        ("stacks/web/.sops.yaml", "creation_rules: []", None, "policy"),
    ],
)  # fmt: skip
def test_what_differs_is_found(path: str, content: str, line: int | None, rule: str) -> None:
    assert found({**GOOD, path: content}) == [(path, line, rule)]


def test_a_plaintext_left_beside_its_encrypted_file_is_found() -> None:
    assert found({**GOOD, "stacks/web/app.env": "A=1\n"}) == [("stacks/web/app.env", None, "plain_copy")]


@pytest.mark.parametrize("policy", [None, "", "creation_rules: []", "creation_rules: [{path_regex: x}]"])
def test_without_a_policy_that_works_nothing_passes(policy: str | None) -> None:
    assert found(GOOD, policy) == [(".sops.yaml", None, "policy")]


def test_a_placeholder_is_a_finding_once_a_file_is_encrypted_by_its_rule() -> None:
    policy = POLICY.replace(f"age: {ALICE}", "age: age1-replace-me")
    assert {rule for _path, _line, rule in found(GOOD, policy)} == {"policy"}
    plain = {path: content for path, content in GOOD.items() if ".sops." not in path}
    report = check({path: content.encode() for path, content in plain.items()}, policy)
    assert report.ok
    assert "placeholders" in report.notes[0]


def test_what_is_no_secret_can_be_said_to_be_none() -> None:
    line = "a_token: for-tests-only # pragma: allowlist secret\n"
    assert found({"inventory/f/hosts.yml": line}) == []
    assert found({"inventory/f/hosts.yml": line.replace("allowlist", "allow")}) != []


def test_the_table_names_file_line_rule_and_way_out() -> None:
    report = check({"stacks/web/app.env": f"API_KEY={SECRET}\n".encode()}, POLICY)
    assert report.findings == (Finding(**asdict(report.findings[0])),)
    shown = text.checked(report)
    assert shown.startswith("stacks/web/app.env:1  detected_secret  holds a value that is named like a secret (API_KEY)")
    assert "-> Encrypt it as stacks/web/app.sops.env" in shown


def test_binary_and_large_files_are_not_looked_through_and_large_ones_are_named() -> None:
    report = check({"stacks/a.tar": b"\0password=x", "stacks/b.txt": b"x" * (1 << 20) + b"y"}, POLICY)
    assert report.ok
    assert report.notes == ("stacks/b.txt has 1 MB: it was not looked through for secrets.",)
