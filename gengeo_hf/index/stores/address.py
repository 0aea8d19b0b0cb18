"""Addresses of stores: their parts, and how they may be shown, as an address may carry a user, a password or a key."""

import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"


def split_address(address: str) -> tuple[str, str, str]:
    """Kind, place and name of an index of `KIND:WHERE[#NAME]`; "" for what is missing.

    Args:
        address: As the user wrote it.
    """
    kind, _, where = address.partition(":")
    before, mark, name = where.rpartition("#")
    if mark and re.fullmatch("[A-Za-z0-9_]{1,64}", name):
        return kind, before, name
    return kind, where, ""


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
        text: Any text.
        where: The address without its kind.
    """
    parts = urlsplit(where) if "://" in where else None
    secrets = [] if parts is None else [parts.netloc.rpartition("@")[0], parts.query, parts.fragment, parts.password]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", text)
