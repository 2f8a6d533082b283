# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of the actions that run on the controller: arguments in, result out, one translation of errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


class ControllerAction(ActionBase):  # type: ignore[misc]
    """Subclasses give *spec* and *required_if* (those of the documented module of the same name) and ``act``.

    *own*: names of arguments of the module that only the action may fill in.
    No connection to the task's host is made: such a task runs for an unreachable host too.
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    spec: ClassVar[Mapping[str, Any]] = {}
    required_if: ClassVar[Sequence[Any]] = ()
    own: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the task's result. Raises PifleetError for what a person can act on."""

    @contextmanager
    def unshown(self) -> Iterator[None]:
        """With -vvv a connection shows all that comes back to it: not of what is asked in here."""
        # the connection's own, which is another object than this action's
        context = self._connection._play_context
        shown = context.no_log
        context.no_log = True
        try:
            yield
        finally:
            context.no_log = shown

    def slurp(self, src: str) -> dict[str, Any]:
        """Return what ansible.builtin.slurp returns of a file with secrets."""
        with self.unshown():
            found: dict[str, Any] = self._execute_module(
                module_name="ansible.builtin.slurp", module_args={"src": src}, task_vars=self.task_vars
            )
        return found

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validation, params = self.validate_argument_spec(argument_spec=dict(self.spec), required_if=list(self.required_if))
        try:
            self._refuse_own()
            result.update(self.act(native(params)))
        except PifleetError as error:
            result.update(failed=True, msg=str(error))
        return result

    def _refuse_own(self) -> None:
        given = [name for name in self.own if self._task.args.get(name)]
        if given:
            raise PifleetError(f"{', '.join(given)} cannot be given: the controller sets what it has.")


def native(value: Any) -> Any:
    """Return *value* with plain texts, lists and dictionaries: those of Ansible carry tags, which YAML and JSON writers refuse."""
    if isinstance(value, Mapping):
        return {native(key): native(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [native(part) for part in value]
    return str(value) if isinstance(value, str) else value
