# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out what is wanted, what is kept and what is there, for all stacks of a node at once. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import files, labels, sops, state
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import Folder
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import (
    VOLUME_CHANGED,
    Container,
    Observation,
    Options,
    Settings,
    known,
)
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Engine, EngineDownError, EngineMissingError, Ports, Source
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.records import as_last_seen
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Record

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class View:
    """What was seen. *engine_missing*: why there is no Docker that runs, in a check of a node that had none yet."""

    cases: tuple[Case, ...]
    warnings: tuple[str, ...] = ()
    engine_missing: str = ""


def look(settings: Settings, ports: Ports, *, check: bool, resolve: bool = True) -> View:
    """Return all stacks of this node, judged. *resolve* False: what Compose would have to be asked for counts as it is kept.

    Raises PifleetError for what concerns all of them.
    """
    missing = ""
    try:
        identity = ports.engine.identity()
    except EngineMissingError as error:
        if not check:
            raise
        identity, missing = "", str(error)
    records, warnings = state.load(settings.state_dir)
    records = {project: record for project, record in records.items() if record.owner == settings.owner}
    # whoever only wants to know is told of what is there, on a node that has no desired state too
    absent = not resolve and not os.path.isdir(settings.path)
    cases = [] if absent else _cases(settings, records)
    if check and any(sops.stale(case) for case in cases):
        import tempfile

        with tempfile.TemporaryDirectory(prefix="pifleet-stacks-") as copy:  # 0700
            there = replace(settings, path=os.path.join(copy, "stacks"), home=settings.home or settings.path)
            _copy(settings, there.path)
            cases = _cases(there, records)
            warnings += sops.decrypt(cases, there, ports.engine, check=True)
            _resolve(cases, there, ports, identity, missing=missing, resolve=resolve)
    else:
        if resolve:
            sops.decrypt(cases, settings, ports.engine)
        _resolve(cases, settings, ports, identity, missing=missing, resolve=resolve)
    here = [case for case in cases if _selected(case, settings)]
    if missing:
        return View(tuple(here), tuple(warnings), missing)
    down = ""
    try:
        seen = ports.engine.observe(sorted({image for case in here if case.stack for image in case.stack.images}), timeout=settings.timeout)
    except EngineDownError as error:
        # whoever only wants to know misses nothing where no stack is, nor ever was
        if not check or (not resolve and (here or records)):
            raise
        down = str(error)
        seen = Observation(tuple(container for record in records.values() for container in as_last_seen(record)))
        settings = replace(settings, images_coming=True)  # which images are here is not known either
        if records:
            warnings.append(f"What runs cannot be seen: {down} This is what would be done if Docker ran, and had what was there last.")
    by_project: dict[str, list[Container]] = {}
    for container in seen.containers:
        by_project.setdefault(container.project, []).append(container)
    desired_is_empty = absent or not (cases or (settings.only and files.find(settings.path, settings.node_roles)))
    unexpected = _unexpected(here, by_project, records, settings, desired_is_empty=desired_is_empty)
    if unexpected and desired_is_empty and settings.remove and not settings.allow_empty:
        warnings.append(f"{settings.path} has no stack at all, so none is removed. Where that is meant, allow_empty says so.")
    if unexpected and absent:
        warnings.append(f"{settings.path}: the folder of stacks is not there. This is what containers and records tell.")
    here += unexpected
    now = ports.clock.now()
    for case in here:
        case.containers = tuple(by_project.get(case.project, ()))
        case.images = seen.images
        case.in_scope = in_scope(case.name, settings)
        case.judge(settings, now)
        if down:
            case.containers = ()  # none runs
        elif resolve and case.to_do:
            _refuse_changed_volumes(case, settings, ports.engine)
    return View(tuple(sorted(here, key=lambda case: case.name)), tuple(warnings))


def _refuse_changed_volumes(case: Case, settings: Settings, engine: Engine) -> None:
    """Docker cannot change a volume, and nothing here removes one that holds data."""
    if not any(found.reason == VOLUME_CHANGED for found in case.drift):
        return
    stack, before = known(case.stack), case.record.volumes if case.record else {}
    changed = [name for name, value in sorted(stack.volumes.items()) if before.get(name, value) != value]
    try:
        here = engine.volumes(changed, timeout=settings.timeout) if changed else ()
    except PifleetError as error:
        case.error = str(error)
        return
    if here:
        using = " ".join(f"--filter volume={name}" for name in here)
        case.error = (
            f"the definition of the volume {', '.join(here)} changed, which Docker cannot do to a volume that exists. "
            "Take the change back; or give the new one another name, which leaves the old one as it is; or save what is in it, and run "
            f"`docker rm --force $(docker ps --all --quiet {using}); docker volume rm {' '.join(here)}` "
            "on the node: the next run makes both anew."
        )


def _copy(settings: Settings, target: str) -> None:
    """Copy the desired state to *target*, where files can be decrypted. What is not part of it, such as data of containers, which can be
    large, is only there as a link."""
    import shutil

    only = files.Only(settings.tracked)
    for folder, below, names in os.walk(settings.path):
        inside = os.path.relpath(folder, settings.path)
        inside = "" if inside == "." else inside
        os.makedirs(os.path.join(target, inside))
        links = [
            name for name in below if name == ".git" or os.path.join(inside, name) not in only or os.path.islink(os.path.join(folder, name))
        ]
        for name in (*links, *names):
            source, copy = os.path.join(folder, name), os.path.join(target, inside, name)
            if os.path.islink(source):
                os.symlink(os.readlink(source), copy)
            elif name in links or os.path.join(inside, name) not in only:
                os.symlink(source, copy)
            elif os.path.isfile(source):
                shutil.copy2(source, copy)
        below[:] = [name for name in below if name not in links]


def _cases(settings: Settings, records: Mapping[str, Record]) -> list[Case]:
    """A case for each folder of a stack, those that this run is not about left out."""
    root = settings.home or settings.path
    return [
        Case(f.name, f.project, f, os.path.join(root, f.name), record=records.get(f.project), loaded=records.get(f.project), error=f.error)
        for f in files.find(settings.path, settings.node_roles, settings.tracked)
        if not settings.only or f.name in settings.only
    ]


def in_scope(name: str, settings: Settings) -> bool:
    """Whether the scope includes a stack on this node."""
    roles = [glob[len("role:") :] for glob in settings.scope if glob.startswith("role:")]
    names = [glob for glob in settings.scope if not glob.startswith("role:")]
    return (not names or any(fnmatchcase(name, glob) for glob in names)) and (
        not roles or any(fnmatchcase(role, glob) for role in settings.node_roles for glob in roles)
    )


def each(work: Callable[[_T], None], items: Sequence[_T], parallel: int) -> None:
    """Call *work* for each of *items*, at most *parallel* at a time. *work* must not raise."""
    if len(items) <= 1 or parallel <= 1:
        for item in items:
            work(item)
        return
    import threading

    rest: Iterator[_T] = iter(items)
    turn = threading.Lock()

    def worker() -> None:
        while True:
            with turn:
                item = next(rest, turn)
            if item is turn:
                return
            work(item)  # type: ignore[arg-type]

    threads = [threading.Thread(target=worker) for _number in range(min(parallel, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- what is wanted -------------------------------------------------------------------------------------------------------------------
def _resolve(cases: Sequence[Case], settings: Settings, ports: Ports, identity: str, *, missing: str, resolve: bool) -> None:
    """Give each case its stack: the kept one where nothing that it is made of changed, else what Compose answers."""
    stale = []
    for case in cases:
        if case.error or case.folder is None:
            continue
        case.fingerprint = fingerprint(case.folder, settings, identity)
        record = case.record
        if record and record.stack and record.fingerprint == case.fingerprint and _outside(record.outside) == record.outside:
            case.stack, case.outside = record.stack, record.outside
        elif not resolve or missing:
            case.stack = record.stack if record and not missing else None
        else:
            stale.append(case)

    def ask(case: Case) -> None:
        try:
            _ask(case, settings, ports.engine)
        except PifleetError as error:
            case.error = str(error)
        except OSError as error:
            case.error = f"{error.filename}: {error.strerror}."

    each(ask, stale, settings.parallel)


def fingerprint(folder: Folder, settings: Settings, identity: str) -> str:
    """Return the digest of everything that Compose makes a stack of, and of which Compose that is."""
    return files.digest("\n".join([folder.inputs, identity, settings.home or settings.path, *settings.ignore]))


def _ask(case: Case, settings: Settings, engine: Engine) -> None:
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks import desired

    folder, source = known(case.folder), case.source  # only such cases are resolved
    answer = engine.resolve(source, timeout=settings.timeout)
    disabled = engine.disabled(source, timeout=settings.timeout) if _mentions(source, b"profiles") else ()
    case.stack = desired.build(folder, answer, root=settings.path, home=case.home, disabled=disabled, ignore=settings.ignore)
    used = {path for service in case.stack.services.values() for path in service.files if os.path.isabs(path)}
    case.outside = _outside(used)
    record = case.record
    if record and record.inputs == case.made_of:
        # the same files as at the last sync: what differs is how Compose, in another version, writes the same down
        renewed = {
            name: replace(kept, service=case.stack.services[name]) if name in case.stack.services else kept
            for name, kept in record.applied.items()
        }
        case.record = replace(record, applied=renewed, networks=case.stack.networks, volumes=case.stack.volumes)


def _outside(paths: Iterable[str]) -> dict[str, str]:
    return {path: files.outside_digest(path) for path in sorted(paths)}


def _mentions(source: Source, word: bytes) -> bool:
    return any(word in (atomic_file.read_bytes(file) or b"") for file in source.files)


def _selected(case: Case, settings: Settings) -> bool:
    """Whether a stack is for this node. One that cannot be resolved now is for the nodes that it was for."""
    stack = case.stack or (case.record.stack if case.record else None)
    options = stack.options if stack else Options()
    if not options.nodes and not options.roles:
        return True
    names = (settings.node_name, settings.node_name.split(".")[0])
    return any(fnmatchcase(name, glob) for glob in options.nodes for name in names) or any(
        fnmatchcase(role, glob) for glob in options.roles for role in settings.node_roles
    )


# -- what is there and not wanted --------------------------------------------------------------------------------------------------------
def _unexpected(
    here: Sequence[Case],
    by_project: Mapping[str, Sequence[Container]],
    records: Mapping[str, Record],
    settings: Settings,
    *,
    desired_is_empty: bool,
) -> list[Case]:
    """Cases of stacks of this owner that run on the node, or whose removal has not ended, and that the desired state does not have, or not
    for this node."""
    wanted = {case.project for case in here}
    names: dict[str, str] = {}
    for project, containers in sorted(by_project.items()):
        name = next(
            (c.labels[labels.NAME] for c in containers if c.labels.get(labels.OWNER) == settings.owner and labels.NAME in c.labels), ""
        )
        if not name or project in wanted or (settings.only and name not in settings.only):
            continue
        names[project] = name
    for project, record in sorted(records.items()):
        # cut off, or failed, after the last container: networks, volumes and the record are still there
        unended = record.removing and project not in by_project and project not in wanted
        if unended and (not settings.only or record.name in settings.only):
            names[project] = record.name
    return [
        Case(
            name, project, record=records.get(project), loaded=records.get(project), removable=settings.allow_empty or not desired_is_empty
        )
        for project, name in sorted(names.items())
    ]
