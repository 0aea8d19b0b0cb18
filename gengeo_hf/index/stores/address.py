"""Addresses of stores as they may be shown: an address may carry a user, a password or a key.

What the user typed, without its secrets: for messages, files and answers.
"""

import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"


def shown(address: str) -> str:
    """The address without user, password, query and fragment: `milvus:http://***@host:19530`."""
    kind, _, where = address.partition(":")
    if "://" not in where:
        return address
    parts = urlsplit(where)
    user, at, host = parts.netloc.rpartition("@")
    return f"{kind}:" + urlunsplit((parts.scheme, HIDDEN + at + host if user else host, parts.path, "", ""))


def without_secrets(text: str, where: str) -> str:
    """What a client says of its server, without the secrets of the address that it may repeat.

    Args:
        text: any text.
        where: the address without its kind.
    """
    parts = urlsplit(where) if "://" in where else None
    secrets = [] if parts is None else [parts.netloc.rpartition("@")[0], parts.query, parts.fragment, parts.password]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", text)
