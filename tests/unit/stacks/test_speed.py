# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift and plan of many stacks: what a run costs beyond Docker's own answers. Processor time, so that other work does not count."""

from __future__ import annotations

import time

from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case

from tests.support import stack_models

NOW = 1_767_225_600.0


def judged(cases: list[Case]) -> float:
    """Processor seconds that finding drift and plan of *cases* takes."""
    began = time.process_time()
    for case in cases:
        case.judge(stack_models.SETTINGS, NOW)
    return time.process_time() - began


def cases(count: int) -> list[Case]:
    """*count* stacks of 5 services; every tenth of them has drift of several kinds."""
    found = [stack_models.settled(f"stack-{number}", 5) for number in range(count)]
    return [stack_models.disturbed(case) if number % 10 == 0 else case for number, case in enumerate(found)]


def test_the_models_are_what_they_claim() -> None:
    for number, case in enumerate(cases(20)):
        case.judge(stack_models.SETTINGS, NOW)
        assert case.error == ""
        reasons = [(found.service, found.reason) for found in case.drift]
        disturbed = [("s0", "limits_changed"), ("s0", "stopped"), ("s1", "image_changed"), ("s4", "service_missing")]
        assert reasons == ([] if number % 10 else disturbed)
        assert bool(case.plan) == bool(reasons)


def test_a_thousand_stacks_of_five_services_take_less_than_half_a_second() -> None:
    thousand = cases(1000)
    assert min(judged(thousand) for _ in range(3)) < 0.5


def test_the_cost_is_linear() -> None:
    few, many = cases(250), cases(1000)
    ratios = sorted(judged(many) / judged(few) for _ in range(3))
    assert ratios[0] < 4 * 1.5
