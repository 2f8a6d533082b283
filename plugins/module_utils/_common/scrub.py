# SPDX-License-Identifier: GPL-3.0-or-later
"""The one scrubber: nothing captured from a command is kept or shown before it went through here."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "********"

# k3s tokens: https://docs.k3s.io/cli/token ("K10<CA hash>::<user>:<password>"). The CA hash is no secret and helps a diagnosis.
_K3S_TOKEN = re.compile(r"(K10[0-9a-f]{8,64}::)(?:[\w.-]+:)?[^\s\"',;]+")
_KEY_VALUE = re.compile(
    r"""(?ix)( (?:^|[\s"'{,?&;+-])
        [\w.-]*? (?:token|password|passwd|secret|credential|(?:api|private|secret|access|join|auth|encryption)[_-]?(?:access[_-]?)?key)s?
        ["']? \s*[=:]\s* ["']? )
        (?!\*{8}) (?!K10[0-9a-f]{8,64}::) ((?<=")[^"\n]+|(?<=')[^'\n]+|[^\s"',;&}]+)""",
)
_BEARER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}")
_URL_PASSWORD = re.compile(r"""(\b[a-z][a-z0-9+.-]*://[^\s:/@]+:)[^\s/"']+(@)""")
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_AGE_KEY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+")
_TAILSCALE_KEY = re.compile(r"\btskey-[a-z]+-[A-Za-z0-9-]+")
# JSON Web Tokens, those of Kubernetes' service accounts among them: header and payload begin with {" in base64
_JWT = re.compile(r"\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]*")
#: a line `key: value`, `KEY="value"` or `- key=value` of a file of settings
_SETTING = re.compile(r"""^(\s*(?:-\s+)?["']?([A-Za-z][\w./-]*)\s*[=:][ \t]*)(.*)$""", re.S)
_SECRET_NAME = re.compile(r"(?i)token|passw|passphrase|pass(?![a-z])|pwd|secret|credential|key|psk")
#: a setting of such a name holds no secret: it says where one is, or whether there is one
_HARMLESS_NAME = re.compile(r"(?i)(?:file|path|dir|folder|encryption)$")
_URL_USER = re.compile(r"""(://)[^\s"']+(@)""")
_KUBECONFIG = re.compile(r"(client-key-data:\s*)\S+")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* with every known secret of *secrets* and everything that looks like one replaced by ``********``.

    *secrets*: exact values the caller knows (tokens, passwords); empty ones and those under 4 characters are ignored,
    because masking them would destroy the text without hiding anything.
    """
    for secret in sorted({s for s in secrets if s and len(s) >= 4}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _BEARER.sub(rf"\1{MASK}", mask_shapes(text))
    return _KEY_VALUE.sub(rf"\1{MASK}", text)


def mask_shapes(text: str) -> str:
    """Return *text* with what is a secret by its own shape masked, whatever it is named: keys, tokens, passwords in URLs."""
    text = _PEM.sub(rf"\1{MASK}\2", text)
    text = _K3S_TOKEN.sub(rf"\1{MASK}", text)
    text = _AGE_KEY.sub(MASK, text)
    text = _TAILSCALE_KEY.sub(MASK, text)
    text = _JWT.sub(MASK, text)
    text = _KUBECONFIG.sub(rf"\1{MASK}", text)
    return _URL_PASSWORD.sub(rf"\1{MASK}\2", text)


def scrub_settings(text: str) -> str:
    """Return *text*, a file of settings (YAML of scalars and lists, or an EnvironmentFile), with the value of each setting masked
    whose name looks like that of a secret, and with all that ``scrub`` masks.

    Stricter than ``scrub``, which reads sentences too: any part of a name counts, and the value is masked to the end of its line.
    """
    lines: list[str] = []
    secret_at: int | None = None  # the indent of the secret that a line may belong to: its list, or its text of several lines
    for line in text.split("\n"):  # a value may hold what splitlines() takes for an end, such as U+0085
        rest = line.lstrip(" \t")
        indent, item = len(line) - len(rest), rest.startswith("- ")
        found = _SETTING.match(line)
        named = found is not None and _is_named_secret(found[2])
        if rest and secret_at is not None and (indent > secret_at or (item and indent == secret_at)):
            line = f"{line[:indent]}{'- ' if item else ''}{MASK}"
        elif found and named:
            line = f"{found[1]}{MASK}" if found[3] else line
            secret_at = secret_at if item else indent
        elif rest and not rest.startswith("#"):
            secret_at = None
        lines.append(_URL_USER.sub(rf"\1{MASK}\2", line))
    return scrub("\n".join(lines))


def _is_named_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS_NAME.search(name)
