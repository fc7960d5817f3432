"""Values that are not for showing, and how they are named where they are used: ``vault:NAME``."""

from __future__ import annotations

import re
from typing import NoReturn

from stateline.core.errors import BadRequest
from stateline.core.limits import SECRET_NAME_CHARS_MAX

REFERENCE = "vault:"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SECRET_NAME_CHARS_MAX - 1}}}")
_PRINTED = "a secret is not for printing; reveal() it where it is used"


class Secret:
    """A value that prints nowhere. ``reveal`` gives it, and is called where it leaves the process and nowhere else.

    Attributes:
        version: another one for each value that was ever stored, and no secret; empty where it is not known.
    """

    __slots__ = ("_value", "version")

    def __init__(self, value: str, version: str = "") -> None:
        self._value = value
        self.version = version

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __str__(self) -> NoReturn:
        # Not a placeholder: that would be sent as the credential, and nobody would know why it does not work.
        raise TypeError(_PRINTED)

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError(_PRINTED)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not for keeping or copying")


def reference_of(text: str) -> str | None:
    """The name in ``vault:NAME``; None where the text is no reference.

    Raises:
        BadRequest: ``invalid_value``: a reference to what cannot be a name.
    """
    if not text.startswith(REFERENCE):
        return None
    return checked_name(text.removeprefix(REFERENCE))


def looks_like_reference(text: str) -> bool:
    """Whether somebody may have meant a reference, as the whole of a header or behind a word such as ``Bearer``."""
    return any(word.lower().startswith(REFERENCE) for word in text.split())


def checked_name(name: str) -> str:
    """The name of a secret, if it can be one.

    Raises:
        BadRequest: ``invalid_value``.
    """
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"A secret's name has 1 to {SECRET_NAME_CHARS_MAX} letters, digits, dots, dashes or underscores, "
            "and begins with a letter or digit.",
            code="invalid_value",
            param="name",
        )
    return name
