"""Small bugs in Python source: what `benchmarks/mutants.py` plants, one at a time.

Operators as in the mutation testing literature (Jia and Harman 2011, section 3): relational, logical and arithmetic
operators, constants, conditions, deleted statements, deleted keyword arguments; and those of this project's own bugs:
slice bounds, torch types, swapped arguments. Messages are left alone: docstrings, raised errors and logging.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "reversed": "iter"}
_TYPES = {"float64": "float32", "float32": "bfloat16"}
_REMOVED_METHODS = {"float", "double", "abs", "abs_", "sqrt", "exp", "strip", "lower", "clone", "absolute", "resolve"}
_KEPT_KEYWORDS = {"strict", "encoding", "reason", "maxsplit"}
"""Removing them changes nothing that a test could see."""
_MESSAGES = {"message", "debug", "info", "warning", "on_message", "TypeVar", "field", "cast", "overload"}
"""Calls that only say something, or only say it to the type checker."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small bug: `source[start:end]` (bytes) is replaced."""

    line: int
    operator: str
    start: int
    end: int
    replacement: bytes

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement + source[self.end :]

    def lines(self, source: bytes) -> tuple[str, str]:
        """The changed lines before and after, each on one line: what identifies a mutant when line numbers change."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = source.find(b"\n", self.end)
        last = len(source) if last < 0 else last
        before, after = source[first:last], source[first : self.start] + self.replacement + source[self.end : last]
        return " ".join(before.decode().split()), " ".join(after.decode().split())


def mutants_of(source: bytes) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines; each parses, and differs from the source."""
    tree = ast.parse(source)
    original = ast.dump(tree)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants: dict[tuple[int, int, bytes], Mutant] = {}
    for operator, node, text in _changes(tree):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        mutant = Mutant(node.lineno, operator, start, end, text.encode())
        try:
            changed = ast.dump(ast.parse(mutant.applied(source))) != original
        except SyntaxError:
            continue
        if changed:
            mutants.setdefault((start, end, mutant.replacement), mutant)
    return sorted(mutants.values(), key=lambda m: (m.start, m.end, m.replacement))


def _changes(tree: ast.Module) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """(operator, node that is replaced, its new text)."""
    for node in _visited(tree):
        if isinstance(node, ast.stmt):
            yield from (("statement", part, text) for part, text in _statement(node))
        elif isinstance(node, ast.expr):
            yield from ((operator, node, text) for operator, text in _expression(node))


def _visited(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be changed: not types, messages or decorators."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_message(child):
                continue
            yield child
            yield from _visited(child)


def _is_message(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):  # a type's name
        return isinstance(node.value.value, ast.Name) and node.value.value.id in ("Callable", "Literal", "Sequence")
    if isinstance(node, ast.FunctionDef) and any(_name(d) == "overload" for d in node.decorator_list):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _name(node.value.func) in _MESSAGES
    if isinstance(node, ast.keyword):
        return node.arg in _KEPT_KEYWORDS
    return isinstance(node, ast.Call) and _name(node.func) in ("TypeVar", "field")


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _statement(node: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    match node:
        case ast.If() | ast.While():
            if isinstance(node, ast.If):
                yield node.test, "True"
            yield node.test, "False"
        case ast.Expr(value=ast.Call()) | ast.Delete():
            yield node, "pass"
        case ast.AugAssign():
            yield node, "pass"
            if type(node.op) in _ARITHMETIC:
                changed = copy.deepcopy(node)
                changed.op = _ARITHMETIC[type(node.op)]()
                yield node, ast.unparse(changed)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass"
        case ast.Continue():
            yield node, "break"
        case ast.Break():
            yield node, "continue"


def _expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[i] = _COMPARISONS[type(op)]()
                yield "comparison", f"({ast.unparse(changed)})"
        case ast.BoolOp():
            changed_op = copy.deepcopy(node)
            changed_op.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "logical", f"({ast.unparse(changed_op)})"
            for i in range(len(node.values)):
                rest = copy.deepcopy(node)
                del rest.values[i]
                yield "operand", f"({ast.unparse(rest if len(rest.values) > 1 else rest.values[0])})"
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "unary", f"({ast.unparse(node.operand)})"
        case ast.BinOp(op=ast.BitOr()):
            yield "operand", f"({ast.unparse(node.left)})"
            yield "operand", f"({ast.unparse(node.right)})"
        case ast.BinOp(op=ast.Div()) if _is_path(node):
            return
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            changed_bin = copy.deepcopy(node)
            changed_bin.op = _ARITHMETIC[type(node.op)]()
            yield "arithmetic", f"({ast.unparse(changed_bin)})"
        case ast.IfExp():
            yield "condition", f"({ast.unparse(node.body)})"
            yield "condition", f"({ast.unparse(node.orelse)})"
        case ast.Constant():
            yield from _constant(node.value)
        case ast.Attribute(value=ast.Name(id="torch"), attr=attribute) if attribute in _TYPES:
            yield "type", f"torch.{_TYPES[attribute]}"
        case ast.Subscript(slice=ast.Slice() as bounds):
            yield from _slices(node, bounds)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            yield from _comprehension(node)
        case ast.Call():
            yield from _call(node)


def _is_path(node: ast.BinOp) -> bool:
    """Whether it is a path and a name, as far as can be told: another operator would only be a TypeError."""
    text = isinstance(node.right, ast.JoinedStr) or isinstance(getattr(node.right, "value", None), str)
    return text or (isinstance(node.right, ast.Name) and node.right.id.isupper())


def _constant(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool):
        yield "constant", repr(not value)
    elif isinstance(value, int):
        yield "constant", repr(value + 1)
    elif isinstance(value, float) and value:
        yield "constant", repr(value * 2)


def _slices(node: ast.Subscript, bounds: ast.Slice) -> Iterator[tuple[str, str]]:
    for bound in ("lower", "upper"):
        if getattr(bounds, bound) is not None:
            changed = copy.deepcopy(node)
            setattr(changed.slice, bound, None)
            yield "slice", ast.unparse(changed)


def _comprehension(node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Iterator[tuple[str, str]]:
    for i, generator in enumerate(node.generators):
        for j in range(len(generator.ifs)):
            changed = copy.deepcopy(node)
            del changed.generators[i].ifs[j]
            yield "condition", ast.unparse(changed)


def _call(node: ast.Call) -> Iterator[tuple[str, str]]:
    name = _name(node.func)
    if isinstance(node.func, ast.Name) and name in _FUNCTIONS and node.args:
        changed = copy.deepcopy(node)
        changed.func = ast.Name(_FUNCTIONS[name])
        if name in ("sorted", "reversed"):
            changed.keywords = []
        yield "function", ast.unparse(changed)
    if isinstance(node.func, ast.Attribute) and name in _REMOVED_METHODS and not node.args:
        yield "method", f"({ast.unparse(node.func.value)})"
    if not name[:1].isupper():  # a class requires its fields
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in _KEPT_KEYWORDS:
                changed = copy.deepcopy(node)
                del changed.keywords[i]
                yield "keyword", ast.unparse(changed)
    plain = [isinstance(argument, ast.Name | ast.Attribute) for argument in node.args]
    if len(plain) > 1 and plain[0] and plain[1] and name not in ("isinstance", "getattr", "setattr"):
        changed = copy.deepcopy(node)
        changed.args[0], changed.args[1] = changed.args[1], changed.args[0]
        yield "arguments", ast.unparse(changed)
