"""The names of a store's keys and of its channel; ``perslm.store`` says what they hold."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from perslm.errors import ArgumentError

SLOTS: Final = 8
USER_ID_BYTES: Final = 256
DEFAULT_TENANT: Final = "default"

_UNSAFE: Final = re.compile(r"[%{}\x00-\x20\x7f]")
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


def check_tenant(name: str) -> None:
    """Raise ArgumentError unless ``name`` can be a tenant's."""
    if not _TENANT.fullmatch(name):
        raise ArgumentError("a tenant is 1 to 40 letters, digits, '_' or '-'")


def namespace(installation: str, tenant: str) -> str:
    """Return how all keys of a tenant begin."""
    return installation if tenant == DEFAULT_TENANT else f"{installation}.{tenant}"


def channel(installation: str) -> str:
    """Return the channel that changes are announced on, those of all tenants."""
    return f"{installation}:changes"


def of_user(namespace: str, user: str) -> list[str]:
    """Return a user's keys: head, fence, slots, pending, rules.

    Raises ArgumentError if ``user`` is no user id.
    """
    if not isinstance(user, str) or not user:
        raise ArgumentError("a user id is text of 1 to 256 bytes, and this one is empty")
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        raise ArgumentError("a user id must be valid Unicode text") from None
    if size > USER_ID_BYTES:
        raise ArgumentError(f"a user id has at most {USER_ID_BYTES} bytes, this has {size}")
    tag = "{" + _UNSAFE.sub(lambda c: f"%{ord(c[0]):02X}", user) + "}"
    return [
        f"{namespace}:head:{tag}",
        f"{namespace}:fence:{tag}",
        *(f"{namespace}:slot:{tag}:{i}" for i in range(SLOTS)),
        f"{namespace}:pending:{tag}",
        f"{namespace}:rules:{tag}",
    ]


def of_heads(namespace: str, user: str) -> list[str]:
    """Return a user's keys as HEADS has them: head, fence, pending, rules."""
    head, fence, *_, pending, rules = of_user(namespace, user)
    return [head, fence, pending, rules]


def heads(namespace: str) -> str:
    """Return the pattern of the heads of all users."""
    return f"{namespace}:head:{{*"


def all_heads(installation: str) -> str:
    """Return a pattern of the heads of all tenants; ``owner`` sorts out what else it finds."""
    return f"{installation}*:head:{{*"


def owner(head: str, installation: str) -> tuple[str, str] | None:
    """Return the tenant and the user whose head this is, or None if it is no head."""
    place, separator, tag = head.partition(":head:{")
    tenant = _tenant(place, installation)
    if not separator or tag[-1:] != "}" or tenant is None:
        return None
    return tenant, unquote(tag[:-1])


def all_pending(namespace: str) -> str:
    """Return the pattern of the learned messages of all users."""
    return f"{namespace}:pending:{{*"


def learner(key: str, installation: str) -> tuple[str, str] | None:
    """Return the tenant and the user whose messages these are, as ``owner``."""
    return owner(key.replace(":pending:{", ":head:{", 1), installation)


def rules(namespace: str) -> str:
    """Return the key of everybody's rules."""
    return f"{namespace}:rules"


def all_rules(installation: str) -> str:
    """Return a pattern of the rules of all tenants and users, as ``all_heads``."""
    return f"{installation}*:rules*"


def ruled(key: str, installation: str) -> tuple[str, str] | None:
    """Return the tenant and the user (empty: everybody) whose rules these are, or None."""
    place, separator, tag = key.partition(":rules")
    tenant = _tenant(place, installation)
    if not separator or tenant is None:
        return None
    if not tag:
        return tenant, ""
    return (tenant, unquote(tag[2:-1])) if tag[:2] == ":{" and tag[-1:] == "}" else None


def _tenant(namespace: str, installation: str) -> str | None:
    if namespace == installation:
        return DEFAULT_TENANT
    name = namespace.removeprefix(f"{installation}.")
    if name in (namespace, DEFAULT_TENANT) or not _TENANT.fullmatch(name):
        return None  # of nobody here
    return name


def vocabulary(namespace: str, fingerprint: str) -> str:
    """Return a vocabulary's key. Raises ArgumentError if that is no fingerprint."""
    if not re.fullmatch(r"[A-Za-z0-9_.:+=-]{1,128}", fingerprint):
        raise ArgumentError("a fingerprint is 1 to 128 letters, digits, or any of _.:+=-")
    return f"{namespace}:vocabulary:{fingerprint}"


def current_vocabulary(namespace: str) -> str:
    """Return the key that names the vocabulary of users to come."""
    return f"{namespace}:vocabulary"


def all_vocabularies(installation: str) -> str:
    """Return a pattern of the vocabularies of all tenants, as ``all_heads``."""
    return f"{installation}*:vocabulary:*"


def owned_vocabulary(key: str, installation: str) -> tuple[str, str] | None:
    """Return the tenant and the fingerprint of a vocabulary, or None if it is no vocabulary."""
    place, separator, fingerprint = key.partition(":vocabulary:")
    tenant = _tenant(place, installation)
    return (tenant, fingerprint) if separator and tenant is not None else None
