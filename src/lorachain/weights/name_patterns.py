"""Regular expressions from adapter files, matched against module names in polynomial time.

`adapter_config.json` may hold regular expressions (target_modules, exclude_modules, the keys of rank_pattern and
alpha_pattern), and an adapter may come from anyone. Python's `re` backtracks: `((a+)+)+b` takes exponential time on a
name of forty characters. Here a pattern is parsed by Python's own parser and matched by following all possible
positions at once (Thompson 1968, "Regular Expression Search Algorithm"): each node of the pattern is tried at most
once at each position. Whether a name matches is the same as in `re`, lookaheads and lookbehinds included.
Back-references, atomic groups and flags are refused. All patterns of an adapter share one budget of steps, so the time
for them is bounded.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lorachain.errors import AdapterError

MAX_LENGTH = 2_000
"""Characters of one pattern. Unsloth's, among the longest in use, have about 300."""
MAX_STEPS = 10_000_000
"""Positions tried for all patterns and names of an adapter: some seconds. A usual pattern takes 1,000 a name."""
_PLAIN = re.compile(r"\^?(?:[\w.-]|\\[.\w-])*\$?")
"""Names and dots, as most patterns are: nothing that could backtrack."""
_parser: Any = importlib.import_module("re._parser")


class StepBudget:
    """How many steps are left for the patterns of one adapter."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.steps = steps
        self.left = steps

    def spend(self, pattern: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise AdapterError(
                f"the pattern {pattern[:80]!r} is too complex to match against the model's modules (more than "
                f"{self.steps:,} steps); name the modules in a list instead"
            )


class NamePattern:
    """A pattern to match against module names.

    Raises:
        AdapterError: it is too long, is not a regular expression, or uses what is not supported.
    """

    def __init__(self, pattern: str, budget: StepBudget, *, of_key: bool = False) -> None:
        """With `of_key` a name matches that ends with the pattern after a dot, as PEFT reads rank_pattern's keys."""
        self._pattern, self._budget = pattern, budget
        complete = rf"(.*\.)?({pattern})$" if of_key else pattern
        try:
            if len(pattern) > MAX_LENGTH:
                raise ValueError(f"it has {len(pattern):,} characters, more than the {MAX_LENGTH:,} allowed")
            self._plain = re.compile(complete) if _PLAIN.fullmatch(pattern) else None
            self._nodes: Any = None
            if self._plain is None:
                self._nodes = _parser.parse(complete)
                _check_supported(self._nodes)
                if self._nodes.state.flags & ~re.UNICODE:
                    raise ValueError("flags are not supported")
        except (re.error, ValueError, RecursionError, OverflowError) as error:
            raise AdapterError(
                f"the pattern {pattern[:80]!r} cannot be used: {str(error) or type(error).__name__}; name the modules "
                "in a list instead"
            ) from error

    def match(self, name: str) -> bool:
        """Whether the pattern matches at the start of `name`."""
        if self._plain is not None:
            return self._plain.match(name) is not None
        return bool(self._ends(name))

    def fullmatch(self, name: str) -> bool:
        """Whether the pattern matches all of `name`."""
        if self._plain is not None:
            return self._plain.fullmatch(name) is not None
        return bool(self._ends(name) >> len(name) & 1)

    def _ends(self, name: str) -> int:
        return _Matching(name, self._budget, self._pattern).ends(self._nodes, 0)


class _Matching:
    """One name. Sets of positions are bits of an integer: bit i is the position in front of character i."""

    def __init__(self, name: str, budget: StepBudget, pattern: str) -> None:
        self._name, self._budget, self._pattern = name, budget, pattern
        self._known: dict[tuple[int, int], int] = {}

    def ends(self, nodes: Any, start: int) -> int:
        """Where a sequence of nodes that begins at `start` can end."""
        key = (id(nodes), start)
        if key not in self._known:
            positions = 1 << start
            for node in nodes:
                positions = self._union(partial(self._node_ends, node), positions)
            self._known[key] = positions
        return self._known[key]

    def _union(self, ends: Callable[[int], int], positions: int) -> int:
        result = 0
        for position in _bits(positions):
            self._budget.spend(self._pattern)
            result |= ends(position)
        return result

    def _node_ends(self, node: tuple[Any, Any], start: int) -> int:
        operation, argument = str(node[0]), node[1]
        name = self._name
        match operation:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return 1 << start + 1 if start < len(name) and _accepts(operation, argument, name[start]) else 0
            case "BRANCH":
                return self._any_branch(argument[1], start)
            case "SUBPATTERN":
                return self.ends(argument[3], start)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, repeated = argument
                return self._repeat(int(least), int(most), repeated, start)
            case "AT":
                return 1 << start if _is_at(str(argument), name, start) else 0
            case _:  # ASSERT, ASSERT_NOT
                direction, ahead = argument
                return 1 << start if self._looks(direction, ahead, start) == (operation == "ASSERT") else 0

    def _any_branch(self, branches: Any, start: int) -> int:
        result = 0
        for branch in branches:
            result |= self.ends(branch, start)
        return result

    def _repeat(self, least: int, most: int, nodes: Any, start: int) -> int:
        """Where between `least` and `most` repetitions can end."""
        length = len(self._name) + 1
        positions = 1 << start
        # Positions only grow: after as many repetitions as there are positions nothing changes any more.
        for _ in range(min(least, length)):
            positions = self._union(partial(self.ends, nodes), positions)
        result = new = positions
        for _ in range(min(most - least, length)):
            new = self._union(partial(self.ends, nodes), new) & ~result
            if not new:
                break
            result |= new
        return result

    def _looks(self, direction: int, nodes: Any, start: int) -> bool:
        if direction > 0:
            return bool(self.ends(nodes, start))
        width = nodes.getwidth()[0]  # Python's parser allows lookbehinds of a fixed width only
        return start >= width and bool(self.ends(nodes, start - width) >> start & 1)


def _bits(positions: int) -> Iterator[int]:
    while positions:
        lowest = positions & -positions
        yield lowest.bit_length() - 1
        positions ^= lowest


_SUPPORTED = {
    *("LITERAL", "NOT_LITERAL", "ANY", "IN", "BRANCH", "SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT", "AT"),
    *("ASSERT", "ASSERT_NOT"),
}


def _check_supported(nodes: Any) -> None:
    """Raises ValueError for an operation that cannot be followed without backtracking."""
    for operation, argument in nodes:
        kind = str(operation)
        if kind not in _SUPPORTED or (kind == "SUBPATTERN" and (argument[1] or argument[2])):
            raise ValueError("back-references, atomic groups, conditionals and flags are not supported")
        children: Any = ()
        if kind == "BRANCH":
            children = argument[1]
        elif kind in ("SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT", "ASSERT", "ASSERT_NOT"):
            children = (argument[-1],)
        for child in children:
            _check_supported(child)


def _accepts(operation: str, argument: Any, character: str) -> bool:
    if operation == "ANY":
        return character != "\n"
    if operation in ("LITERAL", "NOT_LITERAL"):
        return (ord(character) == int(argument)) == (operation == "LITERAL")
    negated = str(argument[0][0]) == "NEGATE"
    return any(_in_set(str(kind), value, character) for kind, value in argument[negated:]) != negated


def _in_set(kind: str, value: Any, character: str) -> bool:
    if kind == "LITERAL":
        return ord(character) == int(value)
    if kind == "RANGE":
        return int(value[0]) <= ord(character) <= int(value[1])
    category = str(value).removeprefix("CATEGORY_")
    belongs = {
        "DIGIT": character.isdecimal(),
        "SPACE": character.isspace(),
        "WORD": character.isalnum() or character == "_",
    }[category.removeprefix("NOT_")]
    return belongs != category.startswith("NOT_")


def _is_at(place: str, name: str, position: int) -> bool:
    """`^`, `$`, `\\A`, `\\Z`, `\\b`, `\\B`."""
    if place in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return position == 0
    if place == "AT_END":
        return position == len(name) or (position == len(name) - 1 and name[-1] == "\n")
    if place == "AT_END_STRING":
        return position == len(name)
    before, after = (
        bool(re.fullmatch(r"\w", part)) for part in (name[position - 1 : position], name[position : position + 1])
    )
    return (before != after) == (place == "AT_BOUNDARY")
