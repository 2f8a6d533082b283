# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs over HTTP: asked for, approved, retried, listed and shown, with links to what they left.

What is asked for is recorded before it is answered; the queue does it.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from ansible_collections.pifleet.ops.hub.auth import Approver, Operator, Viewer
from ansible_collections.pifleet.ops.hub.office import InOffice, Office
from ansible_collections.pifleet.ops.hub.problems import ProblemError, answers
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import profile, text
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Asked
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import ANALYZE, FORWARD, HIGH, PENDING, Artifact, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import Ahead, since_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

router = APIRouter(prefix="/orchestrator", tags=["fix runs"])

Status = Literal[
    "pending",
    "awaiting_approval",
    "running",
    "succeeded",
    "failed",
    "rolled_back",
    "rollback_failed",
    "rejected",
    "expired",
    "cancelled",
]
ApprovalStatus = Literal["not_required", "awaiting", "granted", "expired"]
RunId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,99}$", description="Of a fix run, as it is listed.")]


def _since(given: str) -> str:
    try:
        return since_of(given) if given else ""
    except PifleetError as error:
        raise ValueError(str(error)) from error


Since = Annotated[
    str,
    Query(max_length=32, description="ISO 8601, UTC where no offset is given: those that were asked for then or later."),
    AfterValidator(_since),
]
Limit = Annotated[int, Query(ge=1, le=100)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]


class Summary(BaseModel):
    """A fix run in a list. Times are UTC, ISO 8601, and empty where they have not come; *reason*: why it did not succeed."""

    id: str
    service: str
    stack: str
    node: str
    instruction: str
    status: Status
    requester: str
    created_at: str
    ended_at: str
    parent_id: str
    reason: str
    interrupted: bool
    summary: str
    plan_digest: str
    approval_required: bool
    approval_status: ApprovalStatus


class StepOut(BaseModel):
    """One step. *seconds*: null where it has not ended; *task_id*: of the queue's message that it was done for, empty where none was."""

    name: Literal["analyze", "patch", "build", "restart", "verify", "rollback"]
    state: Literal["pending", "in_progress", "succeeded", "failed", "skipped"]
    message: str
    started_at: str
    ended_at: str
    seconds: float | None
    task_id: str
    artifacts: list[str]


class ApprovalOut(BaseModel):
    """A decision. *used_at*: when the step began that it was for, empty before."""

    id: str
    decision: Literal["approved", "rejected"]
    approver: str
    plan_digest: str
    diff_sha256: str
    given_at: str
    expires_at: str
    used_at: str


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Detail(Summary):
    """A fix run whole. *plan*: null before it was analysed."""

    candidate: str
    plan: dict[str, Any] | None
    steps: list[StepOut]
    approvals: list[ApprovalOut]


class RunPage(BaseModel):
    """*items*, newest first, of *total*."""

    items: list[Summary]
    total: int
    limit: int
    offset: int


class ArtifactOut(BaseModel):
    """One file that a fix run left. *checksum*: SHA-256; *url*: a link that holds until *expires_at*, without a token."""

    name: str
    type: str
    step: str
    checksum: str
    size_bytes: int
    url: str
    expires_at: str


class ArtifactPage(BaseModel):
    items: list[ArtifactOut]
    total: int


def summary_of(run: FixRun) -> dict[str, Any]:
    table = text.as_table(run, text_of(utc_now()))
    return {name: table[name] for name in Summary.model_fields}


def detail_of(run: FixRun) -> dict[str, Any]:
    table = text.as_table(run, text_of(utc_now()))
    steps = [{**step, "artifacts": [a.name for a in run.artifacts if a.step == step["name"]]} for step in table["steps"]]
    return {**table, "plan": run.plan.as_table() if run.plan else None, "steps": steps}


class RunCreate(_Asked):
    """What is asked for. *instruction*: in the grammar of docs/fix-runs.md; *diff*: of `apply diff NAME`, whose text it is."""

    target_service: str = Field(max_length=200)
    instruction: str = Field(max_length=10_000)
    priority: Literal["normal", "high"] = "normal"
    diff: str | None = Field(None, max_length=1 << 20)
    approval_token: str | None = Field(
        None,
        max_length=10_000,
        description="Of `POST /orchestrator/approvals`: the plan was approved before; another plan waits for approval.",
    )


class Decision(_Asked):
    """*plan_digest*: of the plan that the approver saw."""

    decision: Literal["approved", "rejected"] = "approved"
    plan_digest: str = Field(pattern="^[0-9a-f]{64}$")


class ApprovalAhead(_Asked):
    """*plan_digest*: of the plan that the approver saw, by `playbooks/fix.yml --check` or of an earlier fix run."""

    target_service: str = Field(max_length=200)
    plan_digest: str = Field(pattern="^[0-9a-f]{64}$")


class TokenOut(BaseModel):
    """*approval_token*: one fix run can be asked for with it, until *expires_at* (UTC, ISO 8601)."""

    approval_token: str
    expires_at: str


class Retry(_Asked):
    """*from_step*: goes on from there instead of the first step that is not done; *fresh*: another fix run that asks for the same."""

    from_step: str = Field("", max_length=100)
    fresh: bool = False


def _refused(error: PifleetError, **kinds: HTTPStatus) -> ProblemError:
    """Return *error* as a problem of one of *kinds*: of what its hint begins with, else of the first."""
    named, _colon, hint = error.hint.partition(":")
    if named not in kinds:
        named, hint = next(iter(kinds)), error.hint
    return ProblemError(kinds[named], named, f"{error.what} {hint.strip()}".strip())


def _ask(office: Office, service: str, instruction: str, diff: str) -> Asked:
    """Return what is asked for. Raises ProblemError for whatever stands against it; nothing is recorded."""
    try:
        profile.place(service)
    except PifleetError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "unknown_service", str(error)) from error
    if diff.strip() == "" and instruction.strip().lower().startswith("apply diff "):
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "invalid_instruction",
            "The text of the diff belongs into the field diff.",
        )
    try:
        desk = office.asking()
    except PifleetError as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", str(error)) from error
    try:
        return desk.ask(service, instruction, diff)
    except PifleetError as error:
        raise _refused(
            error, invalid_instruction=HTTPStatus.BAD_REQUEST, unknown_service=HTTPStatus.BAD_REQUEST, checkout_dirty=HTTPStatus.CONFLICT
        ) from error


def _ahead(office: Office, asked: Asked, token: str) -> Ahead:
    """Return the approval that a fix run is asked for with. Raises ProblemError where the service needs none."""
    approval = asked.profile.approval
    if approval.requirement == "none" and not approval.risky:
        raise ProblemError(
            HTTPStatus.CONFLICT, "approval_not_applicable", f"{asked.service} is repaired without an approval: leave approval_token out."
        )
    return Ahead(token, office.desk.fleet(), approval.approver_roles, office.signer())


def _create(
    office: Office,
    asked: Asked,
    requester: str,
    priority: Literal["normal", "high"],
    parent_id: str = "",
    ahead: Ahead | None = None,
) -> FixRun:
    def keep(run: FixRun) -> list[Artifact]:
        return [office.desk.keep(run, "patch.diff", ANALYZE, asked.case.patch)] if asked.case.patch else []

    try:
        run = office.fix_runs.create(
            None,
            asked.service,
            asked.profile.stack,
            asked.profile.node,
            asked.case.wanted.text,
            requester,
            parent_id,
            priority,
            keep,
            ahead,
        )
    except LedgerError:
        raise
    except PifleetError as error:
        raise _refused(error, service_busy=HTTPStatus.CONFLICT, approval_invalid=HTTPStatus.CONFLICT) from error
    return _submitted(office, run)


def _submitted(office: Office, run: FixRun) -> FixRun:
    if run.status == PENDING:
        office.queue.submit(run.id, priority="high" if run.priority == HIGH else "normal")
    return run


def found(office: Office, run_id: str) -> FixRun:
    """Return a fix run. Raises ProblemError 404."""
    try:
        return office.fix_runs.get(run_id)
    except LedgerError:
        raise
    except PifleetError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, "run_not_found", error.what) from error


@router.post("/runs", status_code=HTTPStatus.ACCEPTED, responses=answers(400, 401, 403, 409, 422))
def create_run(office: InOffice, who: Operator, wanted: RunCreate, response: Response) -> Summary:
    """Ask for a fix run. It is recorded as pending; what stands against it is said, and nothing is recorded."""
    asked = _ask(office, wanted.target_service, wanted.instruction, wanted.diff or "")
    ahead = _ahead(office, asked, wanted.approval_token) if wanted.approval_token is not None else None
    run = _create(office, asked, who.login, wanted.priority, ahead=ahead)
    response.headers["Location"] = f"/orchestrator/runs/{run.id}"
    return Summary.model_validate(summary_of(run))


@router.post("/approvals", status_code=HTTPStatus.CREATED, responses=answers(400, 401, 403, 422))
def approve_ahead(office: InOffice, who: Approver, wanted: ApprovalAhead) -> TokenOut:
    """Approve a plan before a fix run is asked for. Who approves is the token's login."""
    try:
        minutes = office.desk.profile_of(wanted.target_service).approval.valid_for_minutes
    except PifleetError as error:
        raise _refused(error, unknown_service=HTTPStatus.BAD_REQUEST) from error
    token, until = office.fix_runs.approve_ahead(wanted.target_service, wanted.plan_digest, who.login, minutes, office.signer())
    return TokenOut(approval_token=token, expires_at=until)


@router.post("/runs/{run_id}/approvals", status_code=HTTPStatus.CREATED, responses=answers(400, 401, 403, 404, 409, 422))
def decide_on_run(office: InOffice, who: Approver, run_id: RunId, decision: Decision) -> Detail:
    """Approve or reject the plan of a fix run that waits. Who decides is the token's login. The queue goes on."""
    found(office, run_id)
    try:
        run = office.fix_runs.decide(None, run_id, decision.decision, decision.plan_digest, who.login, office.desk.fleet(), office.signer())
    except (LedgerError, attestation.SigningError):
        raise
    except PifleetError as error:
        raise _refused(error, approval_invalid=HTTPStatus.CONFLICT, approval_not_applicable=HTTPStatus.CONFLICT) from error
    return Detail.model_validate(detail_of(_submitted(office, run)))


@router.post("/runs/{run_id}/retry", status_code=HTTPStatus.ACCEPTED, responses=answers(400, 401, 403, 404, 409, 422))
def retry_run(office: InOffice, who: Operator, run_id: RunId, wanted: Retry | None = None) -> Summary:
    """Go on with a fix run that ended badly, or with *fresh* ask for the same again."""
    run, wanted = found(office, run_id), wanted or Retry(from_step="", fresh=False)
    if wanted.from_step and wanted.from_step not in FORWARD:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "invalid_resume_step", f"A fix run goes on from {', '.join(FORWARD)}.")
    if wanted.fresh:
        if wanted.from_step:
            raise ProblemError(HTTPStatus.BAD_REQUEST, "invalid_resume_step", "A fresh one begins at its beginning: leave from_step out.")
        if run.is_open:
            raise ProblemError(HTTPStatus.CONFLICT, "retry_not_allowed", f"The fix run {run.id} is {run.status}: it is not over.")
        asked = _ask(office, run.service, run.instruction, _patch_of(office, run))
        return Summary.model_validate(summary_of(_create(office, asked, who.login, "normal", run.id)))
    try:
        again = office.fix_runs.requeue(run_id, wanted.from_step, who.login)
    except LedgerError:
        raise
    except PifleetError as error:
        raise _refused(error, retry_not_allowed=HTTPStatus.CONFLICT, invalid_resume_step=HTTPStatus.BAD_REQUEST) from error
    return Summary.model_validate(summary_of(_submitted(office, again)))


def _patch_of(office: Office, run: FixRun) -> str:
    kept = next((a for a in run.artifacts if a.name == "patch.diff"), None)
    if kept is None or not run.instruction.lower().startswith("apply diff "):
        return ""
    try:
        return office.desk.artifacts().read(kept)
    except PifleetError as error:
        raise ProblemError(HTTPStatus.GONE, "artifact_unusable", str(error)) from error


@router.get("/runs", responses=answers(401, 403, 422))
def list_runs(
    office: InOffice,
    _who: Viewer,
    status: Status | None = None,
    service: Annotated[str, Query(max_length=63)] = "",
    since: Since = "",
    limit: Limit = 20,
    offset: Offset = 0,
) -> RunPage:
    """List fix runs, newest first."""
    runs, total = office.fix_runs.listed(service=service, status=status or "", since=since, limit=limit, offset=offset)
    return RunPage.model_validate({"items": [summary_of(run) for run in runs], "total": total, "limit": limit, "offset": offset})


@router.get("/runs/{run_id}", responses=answers(401, 403, 404, 422))
def show_run(office: InOffice, _who: Viewer, run_id: RunId) -> Detail:
    """Show one fix run."""
    return Detail.model_validate(detail_of(found(office, run_id)))


@router.get("/runs/{run_id}/artifacts", responses=answers(401, 403, 404, 422))
def list_artifacts(office: InOffice, _who: Viewer, run_id: RunId) -> ArtifactPage:
    """List what a fix run left, each with a link that expires."""
    items = []
    for artifact in found(office, run_id).artifacts:
        url, until = office.links.to(f"/orchestrator/runs/{run_id}/artifacts/{artifact.name}")
        named = {name: getattr(artifact, name) for name in ("name", "type", "step", "checksum", "size_bytes")}
        items.append(ArtifactOut(**named, url=url, expires_at=text_of(until)))
    return ArtifactPage(items=items, total=len(items))


@router.get("/runs/{run_id}/artifacts/{name}", responses=answers(403, 404, 410, 422), response_class=PlainTextResponse)
def read_artifact(
    office: InOffice,
    run_id: RunId,
    name: Annotated[str, Path(pattern=r"^[a-z]+\.[a-z]+$")],
    expires: Annotated[int, Query(ge=0, le=1 << 40)],
    signature: Annotated[str, Query(pattern="^[0-9a-f]{64}$")],
) -> PlainTextResponse:
    """Return a file that a fix run left, by a link of its list."""
    if not office.links.holds(f"/orchestrator/runs/{run_id}/artifacts/{name}", expires, signature):
        raise ProblemError(HTTPStatus.FORBIDDEN, "link_invalid", "The link has expired, or was not made here. The list has new ones.")
    artifact = next((a for a in found(office, run_id).artifacts if a.name == name), None)
    if artifact is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "artifact_not_found", f"The fix run {run_id} has left no {name}.")
    try:
        content = office.desk.artifacts().read(artifact)
    except PifleetError as error:
        raise ProblemError(HTTPStatus.GONE, "artifact_unusable", str(error)) from error
    return PlainTextResponse(content, headers={"Content-Disposition": f'attachment; filename="{name}"'})
