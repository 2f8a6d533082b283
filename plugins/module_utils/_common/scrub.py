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
_KUBECONFIG = re.compile(r"(client-key-data:\s*)\S+")


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* with every known secret of *secrets* and everything that looks like one replaced by ``********``.

    *secrets*: exact values the caller knows (tokens, passwords); empty ones and those under 4 characters are ignored,
    because masking them would destroy the text without hiding anything.
    """
    for secret in sorted({s for s in secrets if s and len(s) >= 4}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _PEM.sub(rf"\1{MASK}\2", text)
    text = _K3S_TOKEN.sub(rf"\1{MASK}", text)
    text = _AGE_KEY.sub(MASK, text)
    text = _TAILSCALE_KEY.sub(MASK, text)
    text = _JWT.sub(MASK, text)
    text = _KUBECONFIG.sub(rf"\1{MASK}", text)
    text = _URL_PASSWORD.sub(rf"\1{MASK}\2", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _KEY_VALUE.sub(rf"\1{MASK}", text)
