"""Parses addresses of stores, and removes user names, passwords and keys from them for display."""

import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"


def split_address(address: str) -> tuple[str, str, str]:
    """Split `KIND:WHERE[#NAME]` into kind, address of the server or file, and name of the index; "" for missing parts.

    Args:
        address: Address as the user gave it.
    """
    kind, _, where = address.partition(":")
    before, separator, name = where.rpartition("#")
    if separator and re.fullmatch("[A-Za-z0-9_]{1,64}", name):
        return kind, before, name
    return kind, where, ""


def shown(address: str) -> str:
    """Address without user, password, query and fragment: `milvus:http://***@host:19530`."""
    kind, _, where = address.partition(":")
    if "://" not in where:
        return address
    parts = urlsplit(where)
    user, at, host = parts.netloc.rpartition("@")
    return f"{kind}:" + urlunsplit((parts.scheme, HIDDEN + at + host if user else host, parts.path, "", ""))


def without_secrets(text: str, where: str) -> str:
    """Remove the secrets of an address from the message of a client.

    Args:
        text: Message of the client.
        where: Address without its kind.
    """
    parts = urlsplit(where) if "://" in where else None
    secrets = [] if parts is None else [parts.netloc.rpartition("@")[0], parts.query, parts.fragment, parts.password]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", text)
