"""What policies may speak of: the entities, the action and its context, as a Cedar schema; and the check against it.

One action has one type of context, and a tool's arguments are its own. So there is a schema for each tool that is
known by name, and a policy is validated under those of the tools that its scope can match. Where an operator
declares no arguments, they are of the types that the policies read them as, so that what is checked is that all of
them read them alike; what a call then lacks is an error of its evaluation, and denies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from stateline.core.tools import EffectClass
from stateline.identity.policy import cedar
from stateline.identity.policy.files import Statement
from stateline.identity.policy.mentions import Mentions, Path, inferred
from stateline.identity.policy.names import misnamed
from stateline.identity.policy.shapes import Field, Record, write

ARGUMENTS = ("arguments",)
SUMS = ("history", "sum")
_SCHEMA = """\
entity Tenant;
entity Server;
entity User, Key, Agent in [Tenant] = { "name": String };
entity Tool in [Server] = { "name": String, "effect": String, "data_zone": String };
action "call" appliesTo {
  principal: [User, Key, Agent],
  resource: [Tool],
  context: {
    "arguments": ARGUMENTS,
    "history": {
      "calls": Long, "calls_of_tool": Long, "tools": Set<Tool>, "sum": SUMS, "approvals": Long, "refusals": Long
    },
    "approved": Bool,
    "tenant": Tenant,
    "user"?: User,
    "key"?: Key,
    "agent"?: Agent
  }
};
"""


class Target(NamedTuple):
    """A tool; ``tool`` None: any other of the server; ``server`` None: of any other server."""

    server: str | None
    tool: str | None

    @property
    def name(self) -> str:
        return f"{self.server}/{self.tool}"

    def __str__(self) -> str:
        if self.server is None:
            return "tools that no policy names"
        return f"tools of {self.server} that no policy names" if self.tool is None else self.name


class Policy(NamedTuple):
    """One policy: as it stands, by which name it is told, what its scope says of tools and what it reads."""

    statement: Statement
    name: str
    tree: dict[str, Any]
    mentions: Mentions

    @property
    def resource(self) -> dict[str, Any]:
        """Its scope."""
        return self.tree["resource"]

    def matches(self, target: Target) -> bool:
        """Whether its scope lets it speak of a tool; whoever matches needlessly costs time alone."""
        scope = self.resource
        inner: dict[str, Any] | None = scope
        if scope["op"] == "All":
            return True
        if scope["op"] == "is":
            inner = scope.get("in")
            if scope["entity_type"] != "Tool" or inner is None:
                return scope["entity_type"] == "Tool"
        entity = inner.get("entity", {})
        if entity.get("type") == "Server" and scope["op"] != "==":
            return entity["id"] == target.server
        return entity.get("type") == "Tool" and target.tool is not None and entity["id"] == target.name


def target_of(scope: Mapping[str, Any]) -> Target | None:
    """The tool or server that a scope names."""
    entity: dict[str, Any] = scope.get("in", scope).get("entity", {})
    if entity.get("type") == "Server":
        return Target(entity["id"], None)
    if entity.get("type") == "Tool":
        server, _, tool = entity["id"].partition("/")
        return Target(server, tool)
    return None


class Shapes:
    """The arguments of every tool: those that are declared, and what policies take the others for."""

    def __init__(self, policies: Sequence[Policy], declared: Mapping[str, Record]) -> None:
        self.policies = policies
        self.declared = declared

    def relevant(self, target: Target) -> list[Policy]:
        return [each for each in self.policies if each.matches(target)]

    def of(self, target: Target, guards: set[Path] | None = None) -> Record:
        """A tool's arguments; ``guards`` are the optional ones of those that are not declared."""
        if target.name in self.declared:
            return self.declared[target.name]
        reading = [each.mentions for each in self.relevant(target)]
        found = inferred(reading, guards or set(), ARGUMENTS)
        # A sum is one of whole numbers.
        numbers = {name for each in reading for name in each.names(*SUMS)} & set(found.fields)
        return Record(
            {
                name: Field("Long", field.required) if name in numbers and isinstance(field.shape, str) else field
                for name, field in found.fields.items()
            }
        )


def problems(policy: Policy, shapes: Shapes, schema_of: Callable[[str], cedar.Schema]) -> Iterator[str]:
    """What is wrong with a policy that parses; each once, whatever the number of tools that it goes for."""
    yield from dict.fromkeys(misnamed(policy.tree))
    strange = policy.mentions.effects - set(get_args(EffectClass))
    for word in sorted(strange):
        yield f'resource.effect is one of {", ".join(get_args(EffectClass))}, and never "{word}"'
    said: set[str] = set()
    for target in _targets(policy, shapes):
        for message in _problems_of(policy, target, shapes, schema_of):
            if message not in said:
                said.add(message)
                known = target.tool is not None and (policy.mentions.reads(*ARGUMENTS) or policy.mentions.reads(*SUMS))
                yield f"{message} (for {target})" if known and policy.resource["op"] != "==" else message


def _targets(policy: Policy, shapes: Shapes) -> list[Target]:
    """The tools under whose schemas a policy is validated."""
    named = [target_of(each.resource) for each in shapes.policies]
    known = [Target(*name.partition("/")[::2]) for name in shapes.declared]
    every = [*dict.fromkeys([*(each for each in named if each is not None), *known]), Target(None, None)]
    matching = [each for each in every if policy.matches(each)]
    if policy.mentions.reads(*ARGUMENTS) or policy.mentions.reads(*SUMS):
        return matching
    # The tools differ in nothing that it reads.
    return (matching or [Target(None, None)])[-1:]


def _problems_of(
    policy: Policy, target: Target, shapes: Shapes, schema_of: Callable[[str], cedar.Schema]
) -> Iterator[str]:
    declared = target.name in shapes.declared
    arguments = shapes.of(target, policy.mentions.guarded)
    summed = policy.mentions.names(*SUMS)
    if declared:
        whole = {name for name, field in arguments.fields.items() if field.shape == "Long"}
        for path in policy.mentions.guarded:
            if path[:1] == ARGUMENTS and len(path) == 2 and path[1] not in arguments.fields:
                yield f"context has arguments.{path[1]}: the schema declares no such argument of {target}"
    else:
        whole = summed & set(arguments.fields)
        for name in sorted(summed - whole):
            yield (
                f"context.history.sum.{name}: no policy for {target} reads context.arguments.{name}; "
                "where it is no slip of the pen, declare the tool's arguments in schema.cedarschema"
            )
        whole = summed
    sums = Record({name: Field("Long", True) for name in sorted(whole)})
    text = _SCHEMA.replace("ARGUMENTS", write(arguments)).replace("SUMS", write(sums))
    yield from cedar.validate(policy.statement.text, schema_of(text))
