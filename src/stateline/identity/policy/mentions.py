"""What a policy reads, found in its syntax tree: which parts of the context, as which types, behind which guards.

Only what policies read is put into a request, which halves its cost; and where an operator declares no types, the
types that policies ask for are what they are validated with.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from stateline.identity.policy.shapes import ANY, Field, Record, SetOf, Shape

Path: TypeAlias = tuple[str, ...]
"""Of an attribute below ``context``."""

_ORDER = frozenset({"<", "<=", ">", ">="})
_SUMS = frozenset({"+", "-", "*"})
_LOGIC = frozenset({"&&", "||"})
_LITERALS: dict[type[object], str] = {str: "String", bool: "Bool", int: "Long"}
_SILENT = frozenset({"Value", "Var", "Slot"})
_CONSTRUCTORS = {"decimal": "decimal", "ip": "ipaddr", "datetime": "datetime", "duration": "duration"}
_METHODS = {
    **dict.fromkeys(("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"), "decimal"),
    **dict.fromkeys(("isIpv4", "isIpv6", "isLoopback", "isMulticast", "isInRange"), "ipaddr"),
    **dict.fromkeys(("toDate", "toTime", "durationSince", "offset"), "datetime"),
    **dict.fromkeys(("toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays"), "duration"),
}
_RESULTS = {
    **dict.fromkeys(("toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays"), "Long"),
    **dict.fromkeys(("toDate", "offset"), "datetime"),
    **dict.fromkeys(("toTime", "durationSince"), "duration"),
}


class Mentions:
    """What one policy reads.

    Attributes:
        used: each path that is read to its end, with the type that it is read as, where that can be told.
        guarded: paths that the policy asks for with ``has``.
        effects: the strings that ``resource.effect`` is compared with.
        principal: whether it matters who asks.
    """

    def __init__(self, policy: dict[str, Any]) -> None:
        self.used: dict[Path, Shape | None] = {}
        self.guarded: set[Path] = set()
        self.effects: set[str] = set()
        self.principal = policy["principal"]["op"] != "All"
        for condition in policy["conditions"]:
            self._walk(condition["body"], "Bool")

    def reads(self, *path: str) -> bool:
        """Whether the policy reads this, something in it, or something that it is in."""
        return any(each[: len(path)] == path[: len(each)] for each in self.used)

    def whole(self, *path: str) -> bool:
        """Whether it reads this as a whole, or something that it is in."""
        return any(path[: len(each)] == each for each in self.used)

    def names(self, *path: str) -> set[str]:
        """The attributes of this that it reads."""
        return {each[len(path)] for each in self.used if len(each) > len(path) and each[: len(path)] == path}

    # -- the walk -----------------------------------------------------------------------------------------

    def _note(self, path: Path, shape: Shape | None) -> None:
        if self.used.get(path) is None:
            self.used[path] = shape

    def _walk(self, node: object, shape: Shape | None = None) -> None:
        path = path_of(node)
        if path is not None:
            self._note(path, shape)
        elif isinstance(node, list):
            for each in cast("list[object]", node):
                self._walk(each)
        elif isinstance(node, dict):
            for kind, body in cast("dict[str, Any]", node).items():
                self._visit(kind, body, shape)

    def _visit(self, kind: str, body: Any, shape: Shape | None) -> None:
        if kind in _SILENT:
            self.principal |= kind == "Var" and body == "principal"
            return
        if kind == "has":
            self._has(body)
        elif kind in _LOGIC:
            self._pair(body, "Bool", "Bool")
        elif kind == "!":
            self._walk(body["arg"], "Bool")
        elif kind == "if-then-else":
            self._walk(body["if"], "Bool")
            self._walk(body["then"], shape)
            self._walk(body["else"], shape)
        elif kind in _ORDER:
            both = _type(body["left"]) or _type(body["right"]) or "Long"
            self._pair(body, both, both)
        elif kind in _SUMS:
            self._pair(body, "Long", "Long")
        elif kind == "neg":
            self._walk(body["arg"], "Long")
        elif kind in {"==", "!="}:
            self._effect(body["left"], body["right"])
            self._effect(body["right"], body["left"])
            self._pair(body, _type(body["right"]), _type(body["left"]))
        elif kind == "like":
            self._walk(body["left"], "String")
        elif kind == "contains":
            self._effect(body["right"], body["left"])
            self._pair(body, SetOf(_type(body["right"]) or ANY), _element(_type(body["left"])))
        elif kind in {"containsAll", "containsAny"}:
            self._pair(body, _type(body["right"]) or SetOf(ANY), _type(body["left"]) or SetOf(ANY))
        elif kind == "isEmpty":
            self._walk(body["arg"], SetOf(ANY))
        elif kind == "Set":
            for each in body:
                self._walk(each, _element(shape) or _element(_type({kind: body})))
        elif kind in _METHODS:
            self._method(kind, body)
        else:
            self._others(body)

    def _pair(self, body: Any, left: Shape | None, right: Shape | None) -> None:
        self._walk(body["left"], left)
        self._walk(body["right"], right)

    def _has(self, body: Any) -> None:
        path = path_of(body["left"])
        if path is None:
            self._walk(body["left"])
            return
        found = (*path, str(body["attr"]))
        self._note(found, None)
        self.guarded.add(found)

    def _method(self, kind: str, body: Any) -> None:
        for each in cast("list[object]", body) if isinstance(body, list) else [body]:
            self._walk(each, _METHODS[kind])

    def _others(self, body: Any) -> None:
        inner = cast("dict[str, Any]", body).values() if isinstance(body, dict) else [body]
        for each in inner:
            self._walk(each)

    def _effect(self, left: object, right: object) -> None:
        """Note what the effect of a tool is compared with."""
        if left != {".": {"left": {"Var": "resource"}, "attr": "effect"}}:
            return
        known = cast("dict[str, Any]", right)
        for each in cast("list[dict[str, Any]]", known.get("Set", [known])):
            if isinstance(each.get("Value"), str):
                self.effects.add(each["Value"])


def path_of(node: object) -> Path | None:
    """The attribute below ``context`` that an expression names."""
    attributes: list[str] = []
    while isinstance(node, dict):
        known = cast("dict[str, Any]", node)
        if "." in known:
            attributes.append(str(known["."]["attr"]))
            node = known["."]["left"]
        else:
            return tuple(reversed(attributes)) if known == {"Var": "context"} else None
    return None


def _element(shape: Shape | None) -> Shape | None:
    return shape.of if isinstance(shape, SetOf) and shape.of != ANY else None


def _type(node: object) -> Shape | None:
    """What an expression's own form tells of its type."""
    if not isinstance(node, dict):
        return None
    known = cast("dict[str, Any]", node)
    ((kind, body),) = known.items()
    if kind == "Value":
        literal = cast("type[object]", type(body))
        return _LITERALS.get(literal)
    if kind == "Set":
        return SetOf(next((found for found in map(_type, body) if found is not None), ANY))
    if kind in _SUMS or kind == "neg":
        return "Long"
    return _CONSTRUCTORS.get(kind) or _RESULTS.get(kind)


def inferred(reading: list[Mentions], guards: set[Path], root: Path) -> Record:
    """The record below ``root`` that these policies together read; what is guarded is optional."""
    tree: dict[str, Any] = {}
    hints: dict[Path, Shape] = {}
    for mentions in reading:
        for path, shape in mentions.used.items():
            if len(path) > len(root) and path[: len(root)] == root:
                node = tree
                for name in path[len(root) :]:
                    node = node.setdefault(name, {})
                if shape is not None:
                    hints.setdefault(path, shape)

    def record(node: dict[str, Any], at: Path) -> Record:
        return Record({name: Field(of(inner, (*at, name)), (*at, name) not in guards) for name, inner in node.items()})

    def of(node: dict[str, Any], at: Path) -> Shape:
        return record(node, at) if node else hints.get(at, ANY)

    return record(tree, root)
