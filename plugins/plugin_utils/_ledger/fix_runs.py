# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of fix runs: created under the service's lock, taken from step to step, read back by any process.

The lock of a service is its fix run that is not over. A runner that is gone leaves one that says how far it got: whoever reads it is told
that it failed, whoever writes next marks it, and ``resume`` goes on with it.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    AWAITING,
    FAILED,
    HIGH,
    IN_PROGRESS,
    NORMAL,
    OPEN,
    PENDING,
    RUNNING,
    STEPS,
    Approval,
    Artifact,
    FixRun,
    Step,
    plan_of,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Fleet
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event, text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, controller, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import open_run_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import (
    fix_run_approvals,
    fix_run_artifacts,
    fix_run_steps,
    fix_runs,
    runs,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import introduce, introduced
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError, Store
from securesystemslib.signer import Signer
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Float,
    Integer,
    Row,
    and_,
    case,
    cast,
    delete,
    extract,
    func,
    insert,
    or_,
    select,
    update,
)

#: how a fix run stands for somebody who would take it
FREE, BUSY, OVER = "free", "busy", "over"
_AnyRow = Row[tuple[object, ...]]
Change = Callable[[FixRun, str], FixRun]
#: is told of a fix run as it was before a transaction and as it is now; never raises
Told = Callable[[FixRun, FixRun], None]
#: of a connection: what its transaction has changed
_MOVED = "fix_runs_moved"


def untold(_before: FixRun, _after: FixRun) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many fix runs there are by service and status, steps by service, name and state, and how many seconds these took together.
    *took*: seconds of those that are over from their creation to their end, by service and status."""

    runs: dict[tuple[str, str], int] = field(default_factory=dict)
    steps: dict[tuple[str, str, str], int] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    took: dict[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ahead:
    """An approval that was given before its fix run was asked for: *token*, of ``FixRuns.approve_ahead``, and what it has to fit. *roles*:
    of the service's profile, one of which the approver needs; *signer*: signs that it is the new fix run's."""

    token: str
    fleet: Fleet
    roles: list[str]
    signer: Signer


def since_of(given: str) -> str:
    """Return the moment that a person gave as the ledger writes it. Raises PifleetError for what is none."""
    try:
        # a year, or a month, is its beginning
        moment = datetime.fromisoformat(given + "2000-01-01"[len(given) :] if len(given) in (4, 7) else given)
        return text_of((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc))
    except (ValueError, OverflowError) as error:
        raise PifleetError(
            f"since is {given!r}, which is no moment.",
            "Give it as ISO 8601: 2026-11-30, 2026-11-30T08:00 or 2026-11-30T08:00:00+01:00; it is UTC where no offset is given.",
        ) from error


class FixRuns:
    """Each method is one durable transaction; what one returned, every process reads. All raise LedgerError where the ledger cannot be
    used, and PifleetError with nothing changed for what may not be. *gone*: whether a run's process has certainly ended;
    *told*: of each change, once it is durable."""

    def __init__(
        self, store: Store, now: Callable[[], datetime] = utc_now, gone: Callable[[Process], bool] = is_gone, told: Told = untold
    ) -> None:
        self._store, self._now, self._gone, self._told = store, now, gone, told

    # -- written ----------------------------------------------------------------------------------------------------------------------
    def create(
        self,
        process: Process | None,
        service: str,
        stack: str,
        node: str,
        instruction: str,
        requester: str,
        parent_id: str = "",
        priority: str = NORMAL,
        keep: Callable[[FixRun], Sequence[Artifact]] = lambda _run: (),
        ahead: Ahead | None = None,
    ) -> FixRun:
        """Record a new fix run, and take the service's lock with it. Without a *process* it waits in the queue.

        *keep*: writes what it begins with; *ahead*: the approval that it is asked for with, which no other can have any more.
        """
        with self._write() as db:
            run_id = _run_of(db, process) if process else ""
            self._take_lock(db, service)
            seq = (db.execute(select(func.max(fix_runs.c.seq))).scalar() or 0) + 1
            run = FixRun(
                id=f"fix-{seq:06d}-{service}",
                service=service,
                stack=stack,
                node=node,
                instruction=instruction,
                status=PENDING,
                requester=requester,
                run_id=run_id,
                created_at=text_of(self._now()),
                steps=runner.fresh_steps(),
                parent_id=parent_id,
                priority=priority,
            )
            db.execute(insert(fix_runs), {**_row(run), "seq": seq})
            _write_steps(db, run)
            if ahead:
                run = replace(run, approvals=(self._redeem(db, run, ahead),))
            run = replace(run, artifacts=tuple(keep(run)))
            _write_artifacts(db, run)
            told = {"instruction": instruction, "node": node, "requester": requester, "parent": parent_id}
            told |= {"approval": run.approvals[0].id} if run.approvals else {}
            self._tell(db, "fix_run.created", run, told)
            return run

    def resume(self, process: Process, wanted: str, from_step: str = "") -> FixRun:
        """Let the run of *process* go on with a fix run that ended badly, or whose approval was given."""
        with self._write() as db:
            run_id = _run_of(db, process)
            self._mark_dead(db)
            run = _get(db, wanted)
            self._take_lock(db, run.service, mine=wanted)
            now = text_of(self._now())
            after = run if run.status == AWAITING and not from_step else runner.reopen(run, from_step, now)
            after = replace(after, run_id=run_id, task_id="", deliveries=0)
            self._update(db, run, after)
            self._tell(db, "fix_run.resumed", after, {"step": runner.due(after)})
            return after

    def requeue(self, wanted: str, from_step: str = "", requester: str = "") -> FixRun:
        """Let a fix run that ended badly wait in the queue for somebody to go on with it. *requester*: who asks for that."""
        with self._write() as db:
            self._mark_dead(db)
            run = _get(db, wanted)
            after = replace(runner.reopen(run, from_step, text_of(self._now()), PENDING), run_id="", task_id="", deliveries=0)
            self._take_lock(db, run.service, mine=wanted)
            self._update(db, run, after)
            self._tell(db, "fix_run.requeued", after, {"step": runner.due(after), "requester": requester})
            return after

    def take(self, process: Process, wanted: str, task_id: str = "") -> FixRun:
        """Let the run of *process* go on with a fix run that waits in the queue, or whose runner is gone.

        *task_id*: of the queue's message; what it began on another controller is its own.
        """
        with self._write() as db:
            run_id = _run_of(db, process)
            self._mark_dead(db)
            kept = _get(db, wanted)
            run, now = _marked(kept), text_of(self._now())
            if run.status == RUNNING and self._standing(db, run, task_id) == FREE:
                run = replace(runner.interrupt(run, now), interrupted=True)
            if run.interrupted:
                self._take_lock(db, run.service, mine=wanted, own=(AWAITING, RUNNING))
            after = replace(runner.take(run, now), run_id=run_id, task_id=task_id)
            self._update(db, kept, after)
            self._tell(db, "fix_run.taken", after, {"step": runner.due(after), "task": task_id})
            return after

    def admit(self, wanted: str, task_id: str, most: int) -> str:
        """Count that the queue begins to do a fix run, where it may be taken, and return how it stood (see ``standing``).

        One that was begun *most* times and is not over all the same ends whoever does it: it is failed from now on, and ``over``.
        """
        with self._write() as db:
            self._mark_dead(db)
            run = _get(db, wanted)
            standing = self._standing(db, _marked(run), task_id)
            if standing != FREE:
                return standing
            if run.deliveries < most:
                self._update(db, run, replace(run, deliveries=run.deliveries + 1))
                return FREE
            why = f"it was begun {most} times, and each time what was doing it ended before it was over; look why, then retry it"
            after = runner.interrupt(run, text_of(self._now()), why)
            if after != run:
                self._update(db, run, after)
                self._tell(db, "fix_run.given_up", after, {"step": _at(after), "deliveries": run.deliveries})
            return OVER

    def give_up(self, before: FixRun, said: str) -> FixRun:
        """Mark a fix run that waits in the queue as it did *before*, and could not be begun, as failed.

        *said*: by what should have begun it. One that was begun, cut off and asked for anew meanwhile is not the same any more.
        """
        return self.change(
            before.id,
            "fix_run.interrupted",
            lambda run, now: (
                runner.interrupt(run, now, f"it could not be begun: {said}") if _is_queued(run) and _marked(run) == before else run
            ),
        )

    def begin(self, process: Process, fix_run_id: str, name: str) -> FixRun:
        """Let a step begin, where its turn is and its approval holds, which is used up with that; else the outcome waits, or is over."""
        with self._write() as db:
            run_id = _run_of(db, process)
            before = _get(db, fix_run_id)
            if before.run_id != run_id:
                raise PifleetError(f"The fix run {fix_run_id} is not this run's: {before.run_id} is at it.")
            now = text_of(self._now())
            after = self._gated(db, before, name, now)
            if after.task_id and after.step(name).state == IN_PROGRESS:
                after = runner.note(after, name, {"task_id": after.task_id})
            self._update(db, before, after)
            self._tell(db, "fix_run.step", after, _moved(before, after))
            return after

    def change(
        self,
        fix_run_id: str,
        kind: str,
        change: Change,
        artifacts: Sequence[Artifact] = (),
        process: Process | None = None,
        keep: Callable[[FixRun], Sequence[Artifact]] = lambda _run: (),
    ) -> FixRun:
        """Apply *change* to the fix run as it is kept now, with its new *artifacts*, and record both as an event *kind*.

        *process*: whose run must still be at it: one that was taken for dead has no say any more; *keep*: writes what is made of the
        outcome.
        """
        with self._write() as db:
            before = _get(db, fix_run_id)
            if process and before.run_id != _run_of(db, process):
                raise PifleetError(f"The fix run {fix_run_id} is not this run's any more: {before.run_id or 'the queue'} has it.")
            after = change(before, text_of(self._now()))
            after = _having(after, artifacts)
            made = keep(after)
            after = _having(after, made)
            if after != before:
                self._update(db, before, after)
                hashes = {artifact.name: artifact.checksum for artifact in (*artifacts, *made)}
                self._tell(db, kind, after, {**_moved(before, after), "artifacts": hashes})
            return after

    def decide(
        self, process: Process | None, fix_run_id: str, decision: str, digest: str, approver: str, fleet: Fleet, signer: Signer
    ) -> FixRun:
        """Record that *approver* approves or rejects the plan of a fix run that waits, signed. *digest*: of the plan they saw.

        Without a *process* what is to be done then is left to the queue.
        """
        with self._write() as db:
            run_id = _run_of(db, process) if process else None
            run = _get(db, fix_run_id)
            _refuse_decision(run, decision, digest, approver, fleet)
            moment = self._now()
            minutes = run.plan.valid_for_minutes if run.plan else 0
            given = Approval(
                id=f"apr-{uuid.uuid4()}",
                fix_run_id=run.id,
                decision=decision,
                approver=approver,
                plan_digest=run.plan_digest,
                diff_sha256=run.plan.diff_sha256 if run.plan else "",
                given_at=text_of(moment),
                expires_at=text_of(moment + timedelta(minutes=minutes)),
            )
            introduce(db, signer, None, run_id, self._now)
            given = replace(given, envelope=attestation.sign(_statement(given), signer))
            db.execute(insert(fix_run_approvals), {**asdict(given), "used_at": None, "envelope": dict(given.envelope)})
            after = replace(run, approvals=(*run.approvals, given))
            if decision == "rejected":
                after = runner.reject(after, approver, text_of(moment), RUNNING if process else PENDING)
            elif process is None:
                after = runner.line_up(after, text_of(moment))
            if decision == "rejected" or process is None:
                after = replace(after, run_id=run_id or "", task_id="", deliveries=0)
            self._update(db, run, after)
            told = {
                "approval": given.id,
                "approver": approver,
                "plan": given.plan_digest,
                "diff": given.diff_sha256,
                "until": given.expires_at,
            }
            self._tell(db, f"fix_run.{decision}", after, told)
            return after

    def approve_ahead(self, service: str, digest: str, approver: str, minutes: int, signer: Signer) -> tuple[str, str]:
        """Record that *approver* approves the plan *digest* of *service* before a fix run is asked for. Return the token that one is to be
        asked for with, once, and until when (UTC, ISO 8601)."""
        with self._write() as db:
            moment = self._now()
            until = text_of(moment + timedelta(minutes=minutes))
            told = {"id": f"apr-{uuid.uuid4()}", "approver": approver, "given_at": text_of(moment), "expires_at": until}
            introduce(db, signer, None, None, self._now)
            envelope = attestation.sign(attestation.payload(service, digest, told, attestation.APPROVAL_AHEAD), signer)
            told = {"approval": told["id"], "service": service, "plan": digest, "approver": approver, "until": until}
            append_event(db, "fix_run.approved_ahead", told, now=self._now)
            return base64.urlsafe_b64encode(json.dumps(envelope).encode()).decode(), until

    def mark_dead(self) -> None:
        """Mark the fix runs whose runner is gone as failed."""
        with self._write() as db:
            self._mark_dead(db)

    # -- read -------------------------------------------------------------------------------------------------------------------------
    def queued(self) -> list[FixRun]:
        """Return the fix runs that wait for somebody to take them, in the order of their turn; none where there is no ledger."""
        high_first = case((fix_runs.c.priority == HIGH, 0), else_=1)
        wanted = select(fix_runs).where(fix_runs.c.status == PENDING, fix_runs.c.run_id.is_(None)).order_by(high_first, fix_runs.c.seq)
        try:
            with self._store.read() as db:
                return _records(db, db.execute(wanted).all())
        except NoLedgerError:
            return []

    def standing(self, wanted: str, task_id: str = "") -> str:
        """Return whether a fix run may be taken: ``free``, ``busy`` where somebody is at it, ``over`` where it waits for nobody.

        *task_id*: of the queue's message; one that is delivered again may go on with what it began, and with nothing else.
        """
        with self._store.read() as db:
            return self._standing(db, self._judged(db, _get(db, wanted)), task_id)

    def get(self, fix_run_id: str) -> FixRun:
        """Return one fix run. Raises PifleetError where there is none of that id."""
        try:
            with self._store.read() as db:
                return self._judged(db, _get(db, fix_run_id))
        except NoLedgerError as error:
            raise _unknown(fix_run_id) from error

    def listed(self, *, service: str = "", status: str = "", since: str = "", limit: int = 20, offset: int = 0) -> tuple[list[FixRun], int]:
        """Return a page of fix runs, newest first, and how many there are in all; none where there is no ledger. *since*: see
        ``since_of``.

        One whose runner is gone counts as failed.
        """
        conditions = [
            *([fix_runs.c.service == service] if service else []),
            *([fix_runs.c.created_at >= since_of(since)] if since else []),
        ]
        try:
            with self._store.read() as db:
                if status:
                    conditions.append(_is(status, [row.id for row in self._dead(db)]))
                total = db.execute(select(func.count()).select_from(fix_runs).where(*conditions)).scalar_one()
                # by number first: rows are wide, and all of them would be sorted where two conditions are one or the other
                page = select(fix_runs.c.seq).where(*conditions).order_by(fix_runs.c.seq.desc()).limit(limit).offset(offset)
                rows = db.execute(select(fix_runs).where(fix_runs.c.seq.in_(page)).order_by(fix_runs.c.seq.desc())).all()
                return [self._judged(db, run) for run in _records(db, rows)], total
        except NoLedgerError:
            return [], 0

    def tally(self) -> Tally:
        """Count all fix runs and their steps; nothing where there is no ledger. One whose runner is gone counts as failed."""
        by_status = select(fix_runs.c.service, fix_runs.c.status, func.count()).group_by(fix_runs.c.service, fix_runs.c.status)
        joined = fix_run_steps.join(fix_runs, fix_run_steps.c.fix_run_id == fix_runs.c.id)
        what = (fix_runs.c.service, fix_run_steps.c.step)
        by_state = select(*what, fix_run_steps.c.state, func.count()).select_from(joined).group_by(*what, fix_run_steps.c.state)
        over = fix_run_steps.c.started_at != "", fix_run_steps.c.ended_at != ""
        found = Tally()
        try:
            with self._store.read() as db:
                counts = Counter({(service, status): count for service, status, count in db.execute(by_status)})
                for row in self._dead(db):
                    counts.update({(row.service, row.status): -1, (row.service, FAILED): 1})
                found.runs.update({what: count for what, count in counts.items() if count})
                found.steps.update({(service, step, state): count for service, step, state, count in db.execute(by_state)})
                took = _moment(db, fix_run_steps.c.ended_at) - _moment(db, fix_run_steps.c.started_at)
                times = select(*what, func.sum(took)).select_from(joined).where(*over).group_by(*what)
                found.seconds.update({(service, step): round(float(seconds), 6) for service, step, seconds in db.execute(times)})
                whole = func.sum(_moment(db, fix_runs.c.ended_at) - _moment(db, fix_runs.c.created_at))
                ended = select(fix_runs.c.service, fix_runs.c.status, whole).where(fix_runs.c.ended_at != "")
                by_end = db.execute(ended.group_by(fix_runs.c.service, fix_runs.c.status))
                found.took.update({(service, status): round(float(seconds), 6) for service, status, seconds in by_end})
        except NoLedgerError:
            pass
        return found

    # -- inside -----------------------------------------------------------------------------------------------------------------------
    @contextmanager
    def _write(self) -> Iterator[Connection]:
        moved: list[tuple[FixRun, FixRun]] = []
        with self._store.write() as db:
            db.info[_MOVED] = moved
            yield db
        for before, after in moved:
            self._told(before, after)

    def _gated(self, db: Connection, run: FixRun, name: str, now: str) -> FixRun:
        if runner.due(run) != name or not runner.needs_approval(run, name):
            return runner.begin(run, name, now)
        given = [a for a in runner.approvals_of(run) if not a.used_at]
        if not given:
            return runner.await_approval(run, now)
        approval = given[-1]
        why = runner.usable(run, approval, now) or _unproven(db, approval)
        if why == "it has expired":
            return runner.expire(run, now)
        if why:
            raise PifleetError(f"The approval {approval.id} of the fix run {run.id} permits nothing: {why}.", "approval_invalid")
        db.execute(update(fix_run_approvals).where(fix_run_approvals.c.id == approval.id).values(used_at=now))
        used = tuple(replace(a, used_at=now) if a.id == approval.id else a for a in run.approvals)
        return runner.begin(replace(run, approvals=used), name, now)

    def _redeem(self, db: Connection, run: FixRun, ahead: Ahead) -> Approval:
        """The approval that *ahead* is, from now on of *run* alone. Raises PifleetError where it permits nothing."""
        given, wrong = _read_ahead(db, ahead.token), ""
        if given is None:
            wrong = "it was not signed here"
        elif given["service"] != run.service:
            wrong = f"it is for {given['service']}"
        elif given["expires_at"] <= text_of(self._now()):
            wrong = "it has expired"
        elif ahead.fleet.two_person and given["approver"] == run.requester:
            wrong = "its approver asks for the fix run"
        elif not ahead.fleet.has_role(given["approver"], ahead.roles):
            wrong = f"{given['approver']} has none of the roles {', '.join(ahead.roles)}"
        elif db.execute(select(fix_run_approvals.c.id).where(fix_run_approvals.c.id == given["id"])).first():
            wrong = "another fix run was asked for with it"
        if given is None or wrong:
            raise PifleetError(f"The approval that was given ahead permits nothing: {wrong}.", "approval_invalid: Nothing was recorded.")
        approval = Approval(
            id=given["id"],
            fix_run_id=run.id,
            decision="approved",
            approver=given["approver"],
            plan_digest=given["plan_digest"],
            diff_sha256="",
            given_at=given["given_at"],
            expires_at=given["expires_at"],
        )
        introduce(db, ahead.signer, None, None, self._now)
        approval = replace(approval, envelope=attestation.sign(_statement(approval), ahead.signer))
        db.execute(insert(fix_run_approvals), {**asdict(approval), "used_at": None, "envelope": dict(approval.envelope)})
        return approval

    def _take_lock(self, db: Connection, service: str, mine: str = "", own: Sequence[str] = (AWAITING,)) -> None:
        self._mark_dead(db)
        held = db.execute(select(fix_runs).where(fix_runs.c.service == service, fix_runs.c.status.in_(OPEN))).all()
        for row in held:
            if row.id == mine and row.status in own:
                continue
            raise PifleetError(
                f"The fix run {row.id} of {service} is {row.status}.",
                "Approve or reject it first (playbooks/approve.yml). Nothing was recorded."
                if row.status == AWAITING
                else "Wait for its end. Nothing was recorded.",
            )

    def _dead(self, db: Connection) -> list[_AnyRow]:
        """The fix runs that are under way and whose runner is gone. A service has one that is open, so they are few."""
        under_way = select(fix_runs).where(fix_runs.c.status.in_((PENDING, RUNNING)), fix_runs.c.run_id.is_not(None))
        return [row for row in db.execute(under_way).all() if not self._lives(db, row.run_id)]

    def _mark_dead(self, db: Connection) -> None:
        for before in _records(db, self._dead(db)):
            after = runner.interrupt(before, text_of(self._now()))
            self._update(db, before, after)
            self._tell(db, "fix_run.interrupted", after, {"step": _at(after)})

    def _standing(self, db: Connection, run: FixRun, task_id: str) -> str:
        mine = bool(task_id) and run.task_id == task_id
        if _is_queued(run) or (run.interrupted and (mine or not task_id)):
            return FREE
        if run.status not in (PENDING, RUNNING):
            return OVER
        # nobody here can tell whether a process of another controller lives; that its message was delivered again says that it does not
        at = db.execute(select(runs.c.controller).where(runs.c.id == run.run_id)).scalar()
        return FREE if mine and at != controller() else BUSY

    def _lives(self, db: Connection, run_id: str) -> bool:
        row = db.execute(select(runs).where(runs.c.id == run_id, runs.c.status == RUNNING)).first()
        return row is not None and not self._gone(Process(row.controller, row.boot_id, row.pid, row.process_started))

    def _judged(self, db: Connection, run: FixRun) -> FixRun:
        if run.status in (PENDING, RUNNING) and run.run_id and not self._lives(db, run.run_id):
            return replace(runner.interrupt(run, text_of(self._now())), interrupted=True)
        return _marked(run)

    def _update(self, db: Connection, before: FixRun, after: FixRun) -> None:
        db.info[_MOVED].append((before, after))
        row = _row(after)
        if row != _row(before):
            db.execute(update(fix_runs).where(fix_runs.c.id == after.id).values(row))
        if after.steps != before.steps:
            _write_steps(db, after)
        if after.artifacts != before.artifacts:
            db.execute(delete(fix_run_artifacts).where(fix_run_artifacts.c.fix_run_id == after.id))
            _write_artifacts(db, after)

    def _tell(self, db: Connection, kind: str, run: FixRun, told: Mapping[str, Any]) -> None:
        told = {"fix_run": run.id, "service": run.service, "status": run.status, **told}
        append_event(db, kind, told, about=[("fix_run", run.id)], run_id=run.run_id or None, host=run.node, now=self._now)


def _refuse_decision(run: FixRun, decision: str, digest: str, approver: str, fleet: Fleet) -> None:
    if run.status != AWAITING or run.plan is None:
        raise PifleetError(f"The fix run {run.id} is {run.status}: it waits for no approval.", "approval_not_applicable")
    if digest != run.plan.digest:
        raise PifleetError(
            f"The plan of the fix run {run.id} is {run.plan.digest}, not {digest or '(none given)'}.", "Look at it, and name that one."
        )
    if decision == "approved" and fleet.two_person and approver == run.requester:
        raise PifleetError(
            f"{approver} asked for the fix run {run.id}, and cannot approve it.",
            "Somebody else approves it, by their own login; `two_person: false` in fix_runs.yml lets one person do both.",
        )
    if not fleet.has_role(approver, run.plan.approver_roles):
        raise PifleetError(f"{approver} has none of the roles {', '.join(run.plan.approver_roles)}.", "They are given in fix_runs.yml.")


def _statement(given: Approval) -> bytes:
    told = {key: getattr(given, key) for key in ("id", "decision", "approver", "diff_sha256", "given_at", "expires_at")}
    return attestation.payload(given.fix_run_id, given.plan_digest, told, attestation.APPROVAL)


def _unproven(db: Connection, approval: Approval) -> str:
    """Why an approval is not what was signed, empty where it is."""
    keys = {told["keyid"]: told["public"] for told in introduced(db)}
    try:
        _key, statement = attestation.verified(approval.envelope, keys, attestation.APPROVAL)
    except attestation.SigningError as error:
        return f"its signature does not hold: {error}"
    return "" if chain.canonical(statement) == _statement(approval) else "it is not what was signed"


def _read_ahead(db: Connection, token: str) -> dict[str, str] | None:
    """What a token of ``approve_ahead`` says, None where it is none of this ledger's."""
    keys = {told["keyid"]: told["public"] for told in introduced(db)}
    try:
        envelope = json.loads(base64.b64decode(token, b"-_", validate=True))
        _key, statement = attestation.verified(envelope, keys, attestation.APPROVAL_AHEAD)
    except (attestation.SigningError, ValueError, RecursionError):
        return None
    (about,) = statement["subject"]
    return {**statement["predicate"], "service": about["name"], "plan_digest": about["digest"]["sha256"]}


def _run_of(db: Connection, process: Process) -> str:
    run_id = open_run_of(db, process)
    if run_id is None:
        raise PifleetError(
            "No run is open in the ledger, so that a fix run cannot be recorded.",
            "A playbook begins with run_record state=opened; was that left out by --start-at-task or --skip-tags?",
        )
    return run_id


def _get(db: Connection, wanted: str) -> FixRun:
    row: _AnyRow | None = db.execute(select(fix_runs).where(fix_runs.c.id == wanted)).first()
    if row is None:
        raise _unknown(wanted)
    return _records(db, [row])[0]


def _unknown(wanted: str) -> PifleetError:
    return PifleetError(f"There is no fix run {wanted}.", "`playbooks/fix_runs.yml` lists those that there are.")


def _marked(run: FixRun) -> FixRun:
    """*run*, saying whether its runner is gone."""
    return replace(run, interrupted=run.status == FAILED and run.reason.startswith("interrupted"))


def _having(run: FixRun, artifacts: Sequence[Artifact]) -> FixRun:
    """*run* with *artifacts*, each in the place of an earlier one of its name."""
    new = {artifact.name: artifact for artifact in artifacts}
    kept = (artifact for artifact in run.artifacts if artifact.name not in new)
    return replace(run, artifacts=tuple(sorted((*kept, *new.values()), key=lambda a: a.name)))


def _is(status: str, dead: Sequence[str]) -> ColumnElement[bool]:
    """Whether a fix run is *status*, where those of *dead* are failed."""
    if not dead:
        return fix_runs.c.status == status
    if status == FAILED:
        return or_(fix_runs.c.status == status, fix_runs.c.id.in_(dead))
    return and_(fix_runs.c.status == status, fix_runs.c.id.not_in(dead))


def _is_queued(run: FixRun) -> bool:
    return run.status == PENDING and not run.run_id


def _at(run: FixRun) -> str:
    return next((step.name for step in run.steps if step.state == "in_progress"), "")


def _moved(before: FixRun, after: FixRun) -> dict[str, Any]:
    moved = [step for step, was in zip(after.steps, before.steps, strict=True) if step.state != was.state]
    return {"steps": {step.name: step.state for step in moved}, "message": next((step.message for step in moved if step.message), "")}


def _row(run: FixRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "service": run.service,
        "stack": run.stack,
        "node": run.node,
        "instruction": run.instruction,
        "status": run.status,
        "requester": run.requester,
        "run_id": run.run_id or None,
        "priority": None if run.priority == NORMAL else run.priority,
        "task_id": run.task_id or None,
        "deliveries": run.deliveries or None,
        "parent_id": run.parent_id or None,
        "plan": run.plan.as_table() if run.plan else None,
        "candidate": run.candidate or None,
        "reason": run.reason or None,
        "created_at": run.created_at,
        "ended_at": run.ended_at or None,
    }


def _write_steps(db: Connection, run: FixRun) -> None:
    db.execute(delete(fix_run_steps).where(fix_run_steps.c.fix_run_id == run.id))
    rows = [
        {
            "fix_run_id": run.id,
            "number": number,
            "step": step.name,
            "state": step.state,
            "message": step.message or None,
            "started_at": step.started_at or None,
            "ended_at": step.ended_at or None,
            "detail": dict(step.detail),
        }
        for number, step in enumerate(run.steps, 1)
    ]
    db.execute(insert(fix_run_steps), rows)


def _moment(db: Connection, column: Column[Any]) -> ColumnElement[Any]:
    """A column that ``text_of`` wrote as seconds, in the database's own words: rows are not read to add them up."""
    if db.dialect.name == "sqlite":
        return cast(func.strftime("%s", column), Integer) + cast(func.substr(column, 20, 7), Float)
    return extract("epoch", cast(column, DateTime(timezone=True)))


def _write_artifacts(db: Connection, run: FixRun) -> None:
    if run.artifacts:
        db.execute(insert(fix_run_artifacts), [{**asdict(artifact), "fix_run_id": run.id} for artifact in run.artifacts])


def _records(db: Connection, rows: Iterable[Any]) -> list[FixRun]:
    """The fix runs of *rows*, each other table asked once for all of them."""
    rows = list(rows)
    ids = [row.id for row in rows]
    steps: dict[str, list[Step]] = {}
    for s in db.execute(select(fix_run_steps).where(fix_run_steps.c.fix_run_id.in_(ids)).order_by(fix_run_steps.c.number)).all():
        step = Step(s.step, s.state, s.message or "", s.started_at or "", s.ended_at or "", s.detail)
        steps.setdefault(s.fix_run_id, []).append(step)
    approvals: dict[str, list[Approval]] = {}
    given = (
        select(fix_run_approvals)
        .where(fix_run_approvals.c.fix_run_id.in_(ids))
        .order_by(fix_run_approvals.c.given_at, fix_run_approvals.c.id)
    )
    for a in db.execute(given).mappings().all():
        approvals.setdefault(a["fix_run_id"], []).append(Approval(**{**a, "used_at": a["used_at"] or ""}))
    made: dict[str, list[Artifact]] = {}
    for f in db.execute(select(fix_run_artifacts).where(fix_run_artifacts.c.fix_run_id.in_(ids)).order_by(fix_run_artifacts.c.name)).all():
        made.setdefault(f.fix_run_id, []).append(Artifact(f.name, f.type, f.step, f.path, f.checksum, f.size_bytes))
    return [
        FixRun(
            id=row.id,
            service=row.service,
            stack=row.stack,
            node=row.node,
            instruction=row.instruction,
            status=row.status,
            requester=row.requester,
            run_id=row.run_id or "",
            priority=row.priority or NORMAL,
            task_id=row.task_id or "",
            deliveries=row.deliveries or 0,
            created_at=row.created_at,
            steps=tuple(steps.get(row.id) or (Step(name) for name in STEPS)),
            plan=plan_of(row.plan) if row.plan else None,
            parent_id=row.parent_id or "",
            candidate=row.candidate or "",
            reason=row.reason or "",
            ended_at=row.ended_at or "",
            approvals=tuple(approvals.get(row.id, ())),
            artifacts=tuple(made.get(row.id, ())),
        )
        for row in rows
    ]
