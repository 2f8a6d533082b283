# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception base of the collection's node-side and controller-side cores."""

from __future__ import annotations


class PifleetError(Exception):
    """A failure that a person can act on.

    *what* says what is wrong and where (file, key, host); *hint* says what to do about it.
    Façades turn it into ``fail_json(msg=str(error))`` once, in ``main()``; nothing else is caught there.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()
