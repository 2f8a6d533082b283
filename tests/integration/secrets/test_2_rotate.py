# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rotate_secrets.yml on files: real sops, age and GnuPG, killed in the middle, taken back, and watched for plaintext on disks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.secrets.conftest import SAMPLES, VALUE
from tests.support.controller import ROOT
from tests.support.secrets import Keys, SecretsFleet


def rotate(fleet: SecretsFleet, what: str, *args: str, rc: int = 0, **variables: Any) -> str:
    """Run the playbook, and return its output, in which no secret is."""
    played = fleet.play("rotate_secrets", "-e", json.dumps({"what": what, **variables}), *args)
    assert played.rc == rc, played.out
    played.assert_clear()
    assert VALUE not in played.out
    return " ".join(played.out.split())


def contents(fleet: SecretsFleet) -> dict[str, str]:
    return {path: (fleet.folder / path).read_text() for path in (*SAMPLES, ".sops.yaml")}


def events(fleet: SecretsFleet, kind: str = "secrets") -> list[tuple[str, dict[str, Any]]]:
    """(kind, data) of the ledger's events about secrets, oldest first."""
    items = Queries(Store(fleet.folder / ".pifleet/ledger.db")).events(Wanted(kind=kind)).items
    assert VALUE not in str(items)
    return [(item["kind"], item["data"]) for item in reversed(items)]


def readable(fleet: SecretsFleet, keys: Keys | None = None) -> set[str]:
    return {path for path in SAMPLES if VALUE in (fleet.decrypt(path, keys) or "")}


def data_keys(fleet: SecretsFleet) -> dict[str, str]:
    """Something of each file that another data key changes: the first value that is encrypted."""
    found = {path: re.search(r"ENC\[[^\]]+\]", (fleet.folder / path).read_text()) for path in SAMPLES}
    return {path: match[0] for path, match in found.items() if match}


def test_data_keys_check_apply_and_the_way_back(fleet: SecretsFleet) -> None:
    before = contents(fleet)
    out = rotate(fleet, "data_keys", "--check")
    assert "Would rotate" in out and all(path in out for path in SAMPLES)
    assert contents(fleet) == before
    assert not (fleet.folder / ".pifleet/secrets").exists()
    old = data_keys(fleet)
    rotate(fleet, "data_keys")
    assert readable(fleet) == set(SAMPLES)
    assert not [path for path, key in data_keys(fleet).items() if key == old[path]]
    rc, found = fleet.check()
    assert (rc, found["findings"]) == (0, [])
    assert found["notes"] == ["Not rotated within 90 days, says the ledger: k3s_token (never), k3s_agent_token (never)."]
    ((kind, data),) = events(fleet)
    assert (kind, data["what"], sorted(data["files"]), data["resumed"]) == ("secrets.rotated", "data_keys", sorted(SAMPLES), False)
    rotate(fleet, "undo")
    assert contents(fleet) == before
    assert [kind for kind, _data in events(fleet)] == ["secrets.rotated", "secrets.taken_back"]
    assert "no rotation to take back" in rotate(fleet, "undo", rc=2)


def test_recipients_of_age_and_gnupg_come_and_go(fleet: SecretsFleet, ram: Path) -> None:
    other = Keys(ram / "other")
    stranger, gnupg = other.age(), other.gnupg("somebody")
    mine = re.search(r"age1\w+", (fleet.folder / ".sops.yaml").read_text())
    assert mine
    out = rotate(fleet, "recipients")
    assert "Rotated nothing" in out
    assert events(fleet) == []
    # somebody comes, by age and by GnuPG; before their public key is known here, nothing is touched
    fleet.policy(mine[0], stranger, gnupg=(gnupg,))
    before = contents(fleet)
    out = rotate(fleet, "recipients", rc=2)
    assert f"GnuPG key {gnupg} is not in the keyring" in out
    assert contents(fleet) == before
    fleet.keys.trust(other, gnupg)
    rotate(fleet, "recipients")
    assert readable(fleet, other) == readable(fleet) == set(SAMPLES)
    only_gnupg = Keys(ram / "only-gnupg")
    shutil.copytree(other.home / "gnupg", only_gnupg.home / "gnupg", ignore=shutil.ignore_patterns("S.*"))
    assert readable(fleet, only_gnupg) == set(SAMPLES)
    assert fleet.rules() == []
    # and goes: the data keys that they knew are no longer in use
    known = data_keys(fleet)
    fleet.policy(mine[0])
    rotate(fleet, "recipients")
    assert readable(fleet, other) == readable(fleet, only_gnupg) == set()
    assert readable(fleet) == set(SAMPLES)
    assert not [path for path, key in data_keys(fleet).items() if key == known[path]]
    assert [data["what"] for _kind, data in events(fleet)] == ["recipients", "recipients"]


@pytest.mark.full
def test_a_key_is_replaced_by_a_new_one_and_back(fleet: SecretsFleet, ram: Path) -> None:
    before = contents(fleet)
    old = re.search(r"age1\w+", before[".sops.yaml"])
    new = fleet.keys.age()
    assert old
    rotate(fleet, "recipients", replace={old[0]: new})
    only_new = Keys(ram / "only-new", fleet.keys.identities[1:])
    only_new.age()
    assert old[0] not in contents(fleet)[".sops.yaml"]
    assert readable(fleet, only_new) == set(SAMPLES)
    rotate(fleet, "undo")
    assert contents(fleet) == before
    # nobody is locked out: the controller has to be able to read what it has written
    stranger = Keys(ram / "stranger").age()
    out = rotate(fleet, "recipients", rc=2, replace={old[0]: stranger})
    assert "`sops decrypt` failed" in out or "`sops rotate` failed" in out
    assert {path: text for path, text in contents(fleet).items() if path != ".sops.yaml"} == {
        path: text for path, text in before.items() if path != ".sops.yaml"
    }
    rotate(fleet, "undo")
    assert contents(fleet) == before


@pytest.mark.full
def test_bad_input_is_refused_before_anything_is_touched(fleet: SecretsFleet, ram: Path) -> None:
    app = "stacks/web/app.sops.env"
    cases = [
        ("what is nonsense", lambda: None, {"what": "nonsense"}),
        ("is no recipient in .sops.yaml", lambda: None, {"what": "recipients", "replace": {"age1nobody": "age1other"}}),
        ("`replace` is about recipients", lambda: None, {"what": "data_keys", "replace": {"a": "b"}}),
        ("stacks/web/plain.sops.env is not encrypted", lambda: fleet.write("stacks/web/plain.sops.env", "A=1\n"), {"what": "data_keys"}),
    ]
    for says, prepare, variables in cases:
        prepare()
        before = contents(fleet)
        assert says in rotate(fleet, rc=2, **variables)
        assert contents(fleet) == before
        assert not (fleet.folder / ".pifleet/secrets").exists()
    (fleet.folder / "stacks/web/plain.sops.env").unlink()
    text = (fleet.folder / app).read_text()
    fleet.write(app, re.sub(r"(sops_lastmodified=)\S+", r"\g<1>2001-01-01T00:00:00Z", text))  # what the code authenticates
    assert f"{app}: `sops decrypt` failed" in rotate(fleet, "data_keys", rc=2)
    fleet.write(app, text)
    mine = fleet.keys
    fleet.keys = Keys(ram / "nobody")
    fleet.keys.age()
    assert "`sops decrypt` failed" in rotate(fleet, "data_keys", rc=2)
    fleet.keys = mine
    assert events(fleet) == []


def test_killed_in_the_middle_the_next_run_completes_it(fleet: SecretsFleet) -> None:
    journal = fleet.folder / ".pifleet/secrets/rotation.json"
    process = subprocess.Popen(
        fleet.argv("rotate_secrets", "-e", "what=data_keys"), cwd=ROOT, env=fleet.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    before = data_keys(fleet)
    deadline = time.monotonic() + 200
    # once two files are done, and others are not
    while not journal.exists() or journal.read_text().count('"done"') < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(60)
    left = [step["path"] for step in json.loads(journal.read_text())["steps"] if step["state"] != "done"]
    assert left and len(left) < len(SAMPLES)
    assert readable(fleet) == set(SAMPLES), "at no moment is a file lost"
    half = data_keys(fleet)
    assert "A rotation of data_keys was begun" in rotate(fleet, "recipients", rc=2)
    out = rotate(fleet, "data_keys")
    assert "going on with a rotation that was cut off" in out
    now = data_keys(fleet)
    assert [path for path in SAMPLES if now[path] == before[path]] == []
    assert {path for path in SAMPLES if now[path] != half[path]} <= set(left)
    assert readable(fleet) == set(SAMPLES)
    ((_kind, data),) = events(fleet)
    assert (data["resumed"], sorted(data["files"])) == (True, sorted(SAMPLES))


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        children = Path(f"/proc/{one}/task/{one}/children")
        found += [int(word) for word in children.read_text().split()] if children.exists() else []
    return found


def test_plaintext_is_written_to_no_disk_and_stands_in_no_argument(fleet: SecretsFleet, ram: Path) -> None:
    """Every write of every process is seen, with what it writes to. Pipes and folders of RAM are no disk."""
    if shutil.which("strace") is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "strace"], check=True)
    trace = ram / "trace"
    calls = "trace=write,pwrite64,writev,pwritev,execve"
    watched = ["strace", "-f", "-y", "-s", "1000000", "-e", calls, "-e", "signal=none", "-o", str(trace)]
    argv = [*watched, *fleet.argv("rotate_secrets", "-e", "what=data_keys")]
    done = subprocess.run(argv, cwd=ROOT, env=fleet.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = [line for line in trace.read_text(errors="replace").splitlines() if VALUE in line]
    targets = {found[1] for line in lines if (found := re.search(r"write\w*\(\d+<(.*?)>", line))}
    assert targets, "sops' pipes are seen, so that a file would be"
    assert {name for name in targets if not name.startswith("pipe:")} == set()
    assert not [line for line in lines if "execve(" in line]
    assert readable(fleet) == set(SAMPLES)
