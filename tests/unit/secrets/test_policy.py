# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy as sops reads it: rules, recipients, choice of values, and what is no policy."""

from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import PolicyError, Selection, parse

ALICE, BOB = "age1" + "q" * 58, "age1" + "p" * 58
GNUPG = "85D77543B3D624B63CEA9E6DBC17301B491B3F21"


def test_the_first_rule_that_fits_counts() -> None:
    policy = parse(f"creation_rules:\n- {{path_regex: '^a/', age: {ALICE}}}\n- {{age: '{BOB}, {ALICE}', pgp: 85d77543 {GNUPG[8:]}}}\n")
    first, second = policy.rule_for("a/x.sops.yml"), policy.rule_for("b/a/x.sops.yml")
    assert first and second
    assert (first.number, first.recipients) == (1, {ALICE})
    assert (second.number, second.recipients) == (2, {ALICE, BOB, GNUPG})
    assert parse(f"creation_rules: [{{path_regex: x, age: {ALICE}}}]").rule_for("y") is None


def test_groups_of_keys_are_recipients_all() -> None:
    policy = parse(f"creation_rules:\n- key_groups:\n  - age: [{ALICE}]\n  - age: [{BOB}]\n    pgp: [{GNUPG}]\n")
    assert policy.rules[0].recipients == {ALICE, BOB, GNUPG}


@pytest.mark.parametrize("bad", ["age1-replace-by-me", ALICE[:-1], "AGE-SECRET-KEY-1" + "Q" * 58])
def test_what_is_no_key_is_a_placeholder(bad: str) -> None:
    rule = parse(f"creation_rules: [{{age: '{ALICE},{bad}'}}]").rules[0]
    assert (rule.recipients, rule.placeholders) == ({ALICE}, (bad,))


def test_a_short_id_of_gnupg_is_no_recipient() -> None:
    """Others can make a key with the same one."""
    assert parse("creation_rules: [{pgp: 491B3F21}]").rules[0].placeholders == ("491B3F21",)


@pytest.mark.parametrize(
    ("how", "covered"),
    [
        ({}, {"a": True, "a_unencrypted": False}),
        ({"unencrypted_suffix": "_plain"}, {"a": True, "a_unencrypted": True, "a_plain": False}),
        ({"encrypted_suffix": "_secret"}, {"a": False, "a_secret": True}),
        ({"encrypted_regex": "^(data|stringData)$"}, {"data": True, "kind": False, "metadata": False}),
        ({"unencrypted_regex": "^kind$"}, {"data": True, "kind": False}),
    ],
)
def test_the_choice_of_values_is_that_of_sops(how: dict[str, str], covered: dict[str, bool]) -> None:
    text = "".join(f", {key}: '{value}'" for key, value in how.items())
    selection = parse(f"creation_rules: [{{age: {ALICE}{text}}}]").rules[0].selection
    assert {name: selection.covers((name, "below")) for name in covered} == covered
    assert Selection("encrypted_regex", "^b$").covers(("a", "b"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no creation_rules"),
        ("creation_rules: []", "no creation_rules"),
        ("creation_rules: {a: b}", "no creation_rules"),
        ("a: [", "no YAML"),
        ("creation_rules: [x]", "Rule 1 of .sops.yaml is no table"),
        ("creation_rules: [{path_regex: x}]", "Rule 1 of .sops.yaml has no recipients"),
        (f"creation_rules: [{{age: {ALICE}}}, {{path_regex: '(', age: {ALICE}}}]", "Rule 2 of .sops.yaml: `\\(` is no regular expression"),
        (f"creation_rules: [{{age: {ALICE}, kms: 'arn:aws'}}]", "kms is not supported"),
        (f"creation_rules: [{{age: {ALICE}, encrypted_regex: a, encrypted_suffix: b}}]", "takes one of them"),
        (f"creation_rules: [{{age: {ALICE}, age: {BOB}}}]", "age stands twice"),
        ("creation_rules: [{key_groups: [x]}]", "a group of keys is no table"),
    ],
)
def test_what_is_no_policy_is_refused_by_its_rule(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        parse(text)
