"""For authors of tools in Python: a decorator, what a function may ask about its call, and how it says no.

A function keeps working as before; the decorator only notes what it offers. Nothing is offered until the operator
names it under `[tools] functions`.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from stateline.core.limits_tools import FUNCTION_SECRETS_MAX
from stateline.core.secrets import Secret, checked_name
from stateline.core.tools import EffectClass, Tool

_NO_SECRETS: Mapping[str, Secret] = {}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MARK = "__stateline_tool__"
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The call that a function serves, for one that has a parameter of this type.

    Attributes:
        key: the same for every run of the same call: hand it to whatever can refuse to do a thing twice.
        principal: for whom the call is made; empty where nobody signed in.
        agent: which agent makes it; empty where none does.
    """

    key: str
    tenant: str
    session: str
    principal: str = ""
    agent: str = ""
    secrets: Mapping[str, Secret] = _NO_SECRETS
    """Those that the function declares, opened for this call."""

    def secret(self, name: str) -> Secret:
        """A secret of the vault, which the call's tenant has stored; ``reveal()`` gives its value.

        Args:
            name: one of those that the function declares with ``@tool(secrets=…)``.

        Raises:
            LookupError: it does not.
        """
        found = self.secrets.get(name)
        if found is None:
            raise LookupError(f"the tool does not declare the secret {name!r}; name it in @tool(secrets=[…])")
        return found


class ToolFailure(Exception):
    """Raise it to tell the model that the tool did nothing, and why; its words are shown to the model."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A function with what is offered of it.

    Attributes:
        arguments: the struct that a call's arguments are read into.
        context: the name of the parameter that gets the `Context`; empty where it asks for none.
        look_up: answers by `Context` what an earlier run with its key answered, or None where it cannot prove it.
        timeout_s: of one run; None: the server's.
        secrets: names of those of the vault that a call needs.
    """

    tool: Tool
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    context: str = ""
    look_up: Callable[[Context], Any] | None = None
    timeout_s: float | None = None
    secrets: tuple[str, ...] = ()


def tool(
    *,
    effect: EffectClass = "unsafe",
    name: str | None = None,
    description: str | None = None,
    look_up: Callable[[Context], Any] | None = None,
    timeout_s: float | None = None,
    secrets: Sequence[str] = (),
) -> Callable[[_Function], _Function]:
    """Offer a function, plain or async, as a tool.

    Its arguments' JSON Schema comes from its type hints (`Annotated[str, msgspec.Meta(description="…")]` says
    more); its name and the first paragraph of its docstring are the defaults.

    Args:
        effect: ``read`` changes nothing; ``idempotent`` does once what it does under one `Context.key`; ``unsafe``,
            the default, is never run again by itself once it may have begun.
        look_up: plain or async; see `Offer`.
        secrets: names in the vault, for `Context.secret`. The operator must allow each (`[tools] function_secrets`). A
            call for a tenant that lacks one is not made.

    Raises:
        BadRequest: a name that no secret can have.
        TypeError: the function has a parameter that no JSON object can fill, or a name that models cannot call.
    """

    def offering(function: _Function) -> _Function:
        own = name or function.__name__
        if not _NAME.fullmatch(own):
            raise TypeError(f"{own!r} cannot be the name of a tool: 1 to 64 letters, digits, underscores or hyphens")
        said = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        arguments, context = _arguments(own, function)
        if isinstance(secrets, str) or len(secrets) > FUNCTION_SECRETS_MAX:
            raise TypeError(f"tool {own!r}: secrets are a list of up to {FUNCTION_SECRETS_MAX} names")
        try:
            parameters = _schema(arguments)
        except TypeError as error:
            raise TypeError(f"tool {own!r}: a parameter has a type that JSON cannot have: {error}") from error
        offer = Offer(
            tool=Tool(
                name=own, description=said if description is None else description, parameters=parameters, effect=effect
            ),
            function=function,
            arguments=arguments,
            context=context,
            look_up=look_up,
            timeout_s=timeout_s,
            secrets=tuple([checked_name(each) for each in secrets]),
        )
        setattr(function, _MARK, offer)
        return function

    return offering


def offer_of(value: object) -> Offer | None:
    """What the decorator noted of a function; None where it is not a tool."""
    offer = getattr(value, _MARK, None) if callable(value) else None
    return offer if isinstance(offer, Offer) else None


def _arguments(name: str, function: Callable[..., Any]) -> tuple[type[msgspec.Struct], str]:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    context = ""
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name, Any)
        if hint is Context:
            context = parameter.name
        elif parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {name!r}: parameter {parameter.name!r} cannot be filled by name")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            default: Any = parameter.default
            if isinstance(default, list | dict | set):
                default = msgspec.field(default_factory=cast("Any", default).copy)
            fields.append((parameter.name, hint, default))
    struct = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    return struct, context


def _schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """One object schema, with others that it refers to under `$defs`."""
    whole = msgspec.json.schema(arguments)
    parts: dict[str, Any] = whole.get("$defs", {})
    schema: dict[str, Any] = parts.pop(whole["$ref"].rpartition("/")[2])
    schema.pop("title", None)
    return {**schema, "$defs": parts} if parts else schema
