"""Removes secrets from URLs, for logs, messages and metadata.

What does not belong here: opening what a URL names (``warehouse.py``, ``source/open_file.py``).
"""

from __future__ import annotations

import re
from urllib.parse import unquote

# Names of parameters whose value is secret: password, sslpassword, token, sig, X-Amz-Signature, AccountKey …
_SECRET_NAME = re.compile(r"(?i)pass|pwd|token|secret|sig(nature)?$|credential|key|auth")
_ADDRESS = re.compile(r"[\w+.-]+://[^\s\"'<>]+")
_PAIR = re.compile(r"(?P<name>\w+)(?P<equals>\s*=\s*)(?P<value>'(?:\\.|[^'\\])*'?|\S*)")


def redact(address: str) -> str:
    """A URL, or a libpq string of ``key=value`` pairs, without passwords, tokens and signatures.

    >>> redact("postgresql://u:secret@h/db")
    'postgresql://u:***@h/db'
    >>> redact("https://h/inbox?v=2&sig=secret")
    'https://h/inbox?v=2&sig=***'
    >>> redact("host=h password='a secret' dbname=d")
    'host=h password=*** dbname=d'
    """
    if "://" not in address:
        is_path = "/" in address.partition("=")[0]
        return address if is_path else _PAIR.sub(_without_secret, address)
    before, _, rest = address.partition("://")
    # a password that is not percent-encoded may contain any character: it ends at the last possible @
    user = re.match(r"([^:/?#@]*):((?!\d+(?:[/?#]|$)).*)@", rest, re.DOTALL)
    if user:
        rest = f"{user[1]}:***@{rest[user.end() :]}"
    return f"{before}://" + re.sub(r"(?<=[?&;#])(?P<name>[^=&;#]*)=([^&;#]*)", _without_secret, rest)


def redact_text(text: object, address: str) -> str:
    """The text of an error, with ``address`` and all other URLs in it redacted."""
    return _ADDRESS.sub(lambda found: redact(found[0]), str(text).replace(address, redact(address)))


def _without_secret(pair: re.Match[str]) -> str:
    return f"{pair['name']}=***" if _SECRET_NAME.search(unquote(pair["name"])) else pair[0]
