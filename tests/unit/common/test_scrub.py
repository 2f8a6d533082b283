# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, scrub, scrub_settings
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.config import yaml_text
from hypothesis import given
from hypothesis import strategies as st


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


@pytest.mark.parametrize(
    "text",
    [
        'DB_PASS="SECRET"',
        'PASSWORD_OF_DB="SECRET"',
        'SIGNING_KEY="SECRET"',
        'PASSPHRASE="SECRET"',
        'MYKEY="SECRET"',
        'WG_PSK="SECRET"',
        'TOKEN="with \\"quotes\\" and SECRET"',
        'HTTP_PROXY="http://SECRET@proxy:3128"',
        'HTTP_PROXY="http://user:p/SECRET@proxy:3128"',
        'etcd-s3-sse-customer-key: "a SECRET"',
        "my-tokens:\n  - SECRET\n  - b SECRET",
        "my-tokens:\n- SECRET\n# a comment\n\n- b SECRET",
        "my-tokens:\n  - SECRET\n  # a comment\n  - c: SECRET",
        "token: |\n  first: SECRET\n\n  # SECRET\n  SECRET",
        'kubelet-arg:\n  - "oidc-client-secret=a,SECRET"',
        'vpn-auth: "name=tailscale,joinKey=SECRET"',
        "secret: SECRET",
    ],
)
def test_a_setting_that_is_named_like_a_secret_is_masked_whole(text: str) -> None:
    assert "SECRET" not in scrub_settings(f"a: 1\n{text}\nb: 2\n").replace("SECRET_", "")
    assert scrub_settings(f"a: 1\n{text}\nb: 2\n").endswith("\nb: 2\n")
    assert MASK in scrub_settings(text)


def test_a_setting_that_is_none_stays_so_that_a_diff_says_something() -> None:
    text = (
        "# Managed by pifleet.ops\nagent-token-file: /etc/rancher/k3s/agent-token\ndata-dir: /srv/k3s\nsecrets-encryption: true\n"
        'node-label:\n  - "a=b"\nkube-apiserver-arg:\n  - "tls-private-key-file=/x"\nHTTP_PROXY="http://proxy:3128"\n'
    )
    assert scrub_settings(text) == text


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}-(token|password|secret|api-key)", fullmatch=True), st.text(min_size=5), max_size=4))
def test_no_secret_of_a_configuration_is_in_what_is_shown_of_it(settings: dict[str, str]) -> None:
    shown = scrub_settings(yaml_text(settings))
    assert shown == "# Managed by pifleet.ops\n" + "".join(f"{key}: {MASK}\n" for key in sorted(settings))
