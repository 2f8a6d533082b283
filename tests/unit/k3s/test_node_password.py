# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's password against the hash that k3s keeps of it."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.node_password import fits, hash_of

#: scrypt of "ad0e6a8ee7d1dd0ba5f5c8b58ed5e7a1" with n = 2**15, r = 8, p = 1, as the form in k3s's pkg/authenticator/hash/scrypt.go has it
STORED = "$1:0011223344556677:15:8:1:79T9ZjiQ2g3RXp1aDkIkn/lABHznltV6H05YSVJyhzMSm5fDW56puysT7Hu5c/zQj1nEr8PeV7l7dAvo/Cwt3Q"


def test_only_the_right_password_fits() -> None:
    assert fits("ad0e6a8ee7d1dd0ba5f5c8b58ed5e7a1\n", STORED)
    assert not fits("ad0e6a8ee7d1dd0ba5f5c8b58ed5e7a2", STORED)


@pytest.mark.parametrize("stored", ["", "x", "$2:00:15:8:1:AA", "$1:zz:15:8:1:AA", "$1:00:x:8:1:AA", "$1:00:15:8:1:!", "$1:00:63:8:1:AA"])
def test_a_hash_of_another_form_is_one_clear_error(stored: str) -> None:
    with pytest.raises(PifleetError, match="form that is not known"):
        fits("p", stored)


def test_the_hash_of_a_secret() -> None:
    assert hash_of({"data": {"hash": base64.b64encode(STORED.encode()).decode()}}) == STORED
    assert hash_of(None) == ""


@pytest.mark.parametrize("secret", [{}, {"data": None}, {"data": {"hash": "%"}}, {"data": {"hash": "/w=="}}, {"data": {"hash": 3}}])
def test_a_secret_without_a_hash_is_one_clear_error(secret: dict[str, object]) -> None:
    with pytest.raises(PifleetError, match="no hash"):
        hash_of(secret)
