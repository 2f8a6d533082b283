# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("etcd-s3-secret-key: abcdefgh", "abcdefgh"),
        ("etcd-s3-access-key: abcdefgh", "abcdefgh"),
        ('AWS_SECRET_ACCESS_KEY="abcdefgh"', "abcdefgh"),
        ("joinKey=abcdefgh", "abcdefgh"),
        ("http://user:pa@ss@host/x", "pa@ss"),
        ('password: "a long phrase"', "long phrase"),
        ("password: 'a long phrase'", "long phrase"),
    ],
)
def test_keys_of_stores_and_whole_phrases_are_hidden(text: str, hidden: str) -> None:
    assert hidden not in scrub(text)
    assert not any(part in scrub(text) for part in hidden.split())
