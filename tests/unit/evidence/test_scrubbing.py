# SPDX-License-Identifier: GPL-3.0-or-later
"""What never becomes evidence: known secrets, what is named like one, and tokens that have a form of their own."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned, masked, scrubbed

#: of the forms that detect-secrets knows, put together here so that no scanner takes this file for a leak
TOKENS = {
    "GitHub": "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0bC3dE6",
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "Slack": "xoxb-" + "123456789012-123456789012-abcdefghijklmnopqrstuvwx",
    "Stripe": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "JWT": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
}


@pytest.mark.parametrize("kind", TOKENS)
def test_token_of_a_known_form_is_masked_in_a_transcript(kind: str) -> None:
    text = f"$ deploy --verbose\nusing {TOKENS[kind]} now\ndone in 3 s\n"
    assert scrubbed(text) == f"$ deploy --verbose\nusing {MASK} now\ndone in 3 s\n"


def test_known_secret_is_masked_wherever_it_stands() -> None:
    assert scrubbed("echo correcthorse | sudo -S", ["correcthorse"]) == f"echo {MASK} | sudo -S"
    assert cleaned({"out": ["x correcthorse y"]}, ["correcthorse"]) == {"out": [f"x {MASK} y"]}


def test_digests_addresses_and_plain_words_stay() -> None:
    text = f"image sha256:{'a1' * 32} at 192.0.2.7, revision {'b2' * 20}, APACHE2LICENSE"
    assert scrubbed(text) == text


def test_value_named_like_a_secret_is_masked_and_empty_ones_stay() -> None:
    given = {"db_password": "x", "API_TOKEN": "y", "token": "", "client_secret": 7, "tokens": "z", "nested": [{"passwd": "p"}]}
    expected = {**given, "db_password": MASK, "API_TOKEN": MASK, "nested": [{"passwd": MASK}]}
    assert masked(given) == expected


def test_what_json_cannot_hold_is_told_as_text() -> None:
    assert cleaned({1: date(2025, 1, 2), "n": math.inf, "t": (1, True, None, 0.5), "p": Path("/x")}) == {
        "1": "2025-01-02", "n": "inf", "t": [1, True, None, 0.5], "p": "/x",
    }  # fmt: skip
