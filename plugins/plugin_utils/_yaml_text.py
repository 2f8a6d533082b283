# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way in which data becomes YAML that others read again."""

from __future__ import annotations

from typing import Any

import yaml


class Dumper(yaml.SafeDumper):
    """No anchors: which of them stand there would hang on which objects were the same in memory."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes NEL as it is into single quotes, where every reader takes it for the end of a line; in double quotes it is escaped
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


Dumper.add_representer(str, _text)
