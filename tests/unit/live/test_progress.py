# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told of each host while a run goes on."""

from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.progress import Progress, Row, clock, compared
from hypothesis import given
from hypothesis import strategies as st

HOSTS = ["one", "two", "three"]


def started(sizes: tuple[int, ...] = (4, 4), forks: int = 5, batch: list[str] | None = None) -> Progress:
    made = Progress("site.yml", 100.0, sizes, forks=forks)
    made.begin_play("Install", 1, HOSTS, HOSTS if batch is None else batch)
    made.begin_task("Copy", once=False)
    return made


def rows(progress: Progress, now: float = 110.0) -> dict[str, Row]:
    return {row.host: row for row in progress.rows(now, 20)}


def test_host_at_work_says_what_how_far_and_how_long() -> None:
    made = started()
    made.start("one", "Copy", 103.0, "on two")
    assert rows(made)["one"] == Row("one", "runs", 0.0, "Copy (on two)", "7 s")
    made.item("one", "a.txt")
    made.item("one", "b.txt")
    assert rows(made)["one"].text == "Copy (2 items, the last b.txt)"
    made.note("one", "attempt 3 of 30")
    assert rows(made)["one"].text == "Copy (attempt 3 of 30)"
    made.end("one")
    assert rows(made)["one"].share == 1 / 8


def test_time_stands_beside_that_of_the_same_step_of_the_last_run() -> None:
    made = started()
    made.start("one", "Copy", 103.0)
    assert made.headline(110.0) == "site.yml  play 1 of 2: Install  10 s"
    made.expect(75.0, {("Install", "Copy"): 5.4, ("Other", "Copy"): 99.0})
    assert made.headline(110.0) == "site.yml  play 1 of 2: Install  10 s (last time 1:15)"
    assert rows(made)["one"].times == "7 s (last time 5 s)"


def test_who_waits_says_for_whom() -> None:
    made = started()
    for host in HOSTS:
        made.start(host, "Copy", 103.0)
    made.end("one")
    assert rows(made)["one"] == Row("one", "waits", 1 / 8, "waits for two, three: Copy")
    made.end("two")
    made.end("three")
    assert rows(made)["one"].text == "between two tasks"


def test_host_without_a_fork_waits_for_one() -> None:
    made = started(forks=2)
    made.start("one", "Copy", 103.0)
    made.start("two", "Copy", 103.0)
    assert rows(made)["three"].text == "waits for a free fork (forks = 2)"


def test_what_one_does_for_all_is_said() -> None:
    made = started()
    made.begin_task("Ask the cluster", once=True)
    made.start("one", "Ask the cluster", 103.0)
    assert rows(made)["two"].text == "waits for one, which does it for all"


def test_parts_of_a_play_wait_for_their_turn() -> None:
    made = started(batch=["one"])
    made.start("one", "Copy", 103.0)
    assert rows(made)["two"].text == "waits for its turn: 1 at a time"
    made.end("one")
    made.begin_play("Install", 1, HOSTS, ["two"])
    assert rows(made)["one"] == Row("one", "waits", 0.5, "waits for the next play")
    assert rows(made)["three"].text == "waits for its turn: 1 at a time"


def test_host_of_another_play_is_not_in_this_one() -> None:
    made = started()
    made.begin_play("Agents", 2, ["two"], ["two"])
    assert rows(made)["one"] == Row("one", "waits", 0.5, "not in this play")
    made.start("two", "Join", 104.0)
    assert rows(made)["two"].share == 0.5


def test_hosts_that_go_on_alone_wait_for_nobody() -> None:
    made = Progress("site.yml", 100.0, (4,), forks=1)
    made.begin_play("Free", 1, HOSTS, HOSTS, in_step=False)
    assert rows(made)["one"].text == "between two tasks"
    made.start("two", "Copy", 104.0)
    assert rows(made)["one"].text == "waits for a free fork"


def test_host_that_left_the_run_says_where_and_stays_there() -> None:
    made = started()
    made.start("one", "Copy", 103.0)
    made.end("one", out="failed")
    made.begin_play("Agents", 2, HOSTS, ["two", "three"])
    made.close()
    assert rows(made)["one"] == Row("one", "out", 1 / 8, "failed: Copy")
    assert rows(made)["two"] == Row("two", "done", 1.0, "done")


def test_no_more_hosts_are_shown_than_fit_and_none_that_works_is_left_out() -> None:
    made = Progress("site.yml", 0.0, (2,))
    names = [f"n{number:02}" for number in range(30)]
    made.begin_play("All", 1, names, names)
    made.start("n29", "Copy", 1.0)
    made.start("n28", "Copy", 1.0)
    made.end("n28", out="unreachable")
    shown = made.rows(2.0, 5)
    assert [row.host for row in shown] == ["n29", "n28", "n00", "n01", "26 more"]
    assert shown[-1].text == "26 waiting"


@given(st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(["start", "end", "fail", "play"])), max_size=60))
def test_progress_never_goes_back_nor_beyond_its_end(steps: list[tuple[str, str]]) -> None:
    made, number = started((2, 3, 1)), 1
    for host, what in steps:
        before = {row.host: row.share for row in made.rows(200.0, 20)}
        if what == "play" and number < 3:
            number += 1
            made.begin_play(f"play {number}", number, HOSTS, [h for h in HOSTS if not made.hosts[h].out])
        elif what == "start":
            made.start(host, "Copy", 150.0)
        elif what != "play":
            made.end(host, out="failed" if what == "fail" else "")
        after = {row.host: row.share for row in made.rows(200.0, 20)}
        assert all(before[name] <= after[name] <= 1.0 for name in before)


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (65, "1:05"), (3723, "1:02:03")])
def test_durations(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
    assert compared(seconds, 61.0) == f"{shown} (last time 1:01)"
