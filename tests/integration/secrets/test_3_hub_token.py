# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rotate_secrets.yml on the token for a real hub, in a file of its own or in one that sops encrypted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.secrets.test_2_rotate import events, rotate
from tests.integration.sync.conftest import hub  # noqa: F401
from tests.support.hub import HubProcess
from tests.support.secrets import SecretsFleet

SOURCE = "team/f"


def give(fleet: SecretsFleet, ram: Path, text: str) -> str:
    path = ram / "new-token"
    path.touch(0o600)
    path.write_text(f"{text}\n")
    return str(path)


@pytest.mark.parametrize("place", [pytest.param("token_file", marks=pytest.mark.full), "token_sops"])
def test_a_token_that_the_hub_takes_is_put_in_its_place(fleet: SecretsFleet, ram: Path, hub: HubProcess, place: str) -> None:  # noqa: F811
    names = (f"old {place}", f"new {place}")
    old, new = (hub.token(SOURCE, name) for name in names)
    where = {"token_file": "token"} if place == "token_file" else {"token_sops": {"file": "secrets/hub.sops.yml", "key": "hub_token"}}
    settings = {"hub_url": hub.url, "owner": "team", "fleet": "f", "ca_file": str(hub.ca), **where}
    fleet.write("evidence.yml", json.dumps(settings))
    fleet.write(".gitignore", ".pifleet/\ntoken\n")
    if place == "token_file":
        fleet.write("token", old).chmod(0o600)
    else:
        fleet.encrypt("secrets/hub.sops.yml", f"hub_token: {old}\nother: kept\n")

    def current() -> str:
        return (fleet.folder / "token").read_text() if place == "token_file" else fleet.decrypt("secrets/hub.sops.yml") or ""

    # one that the hub does not know is refused, and nothing is touched
    stranger = old.rsplit("_", 1)[0] + "_" + "x" * 43
    before = current()
    out = rotate(fleet, "hub_token", rc=2, token_from=give(fleet, ram, stranger))
    assert "The hub refuses the new token" in out
    assert stranger not in out
    assert current() == before
    assert "There is no new token" in rotate(fleet, "hub_token", rc=2)
    out = rotate(fleet, "hub_token", "-vvv", "--diff", token_from=give(fleet, ram, new))
    assert new in current() and old not in current()
    assert not [token for token in (old, new) if token in out]
    if place == "token_sops":
        assert "other: kept" in current()
        assert fleet.rules() == []
    ((_kind, data),) = events(fleet)
    assert data["what"] == "hub_token" and data["old"] != data["new"]
    assert not [token for token in (old, new) if token in str(data)]
    # the run that rotated it sent nothing with the old one that could be refused later: it may be revoked
    assert fleet.play("sync", "-e", "mode=now").rc == 0
