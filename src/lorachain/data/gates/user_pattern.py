"""Patterns of users, searched in long texts: only those whose time grows with the text's length and no faster.

Python's `re` backtracks. A pattern without unbounded repeats and with few ways to match at one position costs at most a
constant there, so such patterns are allowed and others refused before a text is read.
"""

import re
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from lorachain.errors import ConfigError

MAX_LENGTH, MAX_WIDTH, MAX_WAYS = 200, 64, 1000
_SINGLE = {"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"}


def compile_bounded(pattern: str, setting: str) -> re.Pattern[str]:
    """The pattern, compiled.

    Args:
        setting: its name, for messages.

    Raises:
        ConfigError: it is not a regular expression, matches the empty text, or could take long.
    """
    try:
        if len(pattern) > MAX_LENGTH:
            raise ValueError(f"it has {len(pattern):,} characters, more than the {MAX_LENGTH} allowed")
        nodes = _parser.parse(pattern)
        ways = _ways(nodes)
        least, most = nodes.getwidth()
        if most > MAX_WIDTH:
            raise ValueError(f"it can match more than {MAX_WIDTH} characters; write {{1,9}} instead of + or *")
        if not least:
            raise ValueError("it matches the empty text")
        if ways > MAX_WAYS:
            raise ValueError(f"it has more than {MAX_WAYS:,} ways to match at one place; shorten its repeats")
        return re.compile(pattern)
    except (re.error, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"{setting} is {pattern[:80]!r}, which cannot be used: {str(error) or type(error).__name__}. An example of "
            r"what can: '\bC-\d{8}\b'"
        ) from error


def _ways(nodes: Any) -> int:
    """An upper limit on the ways in which a sequence can match at one position; more than `MAX_WAYS` is not exact."""
    total = 1
    for operation, argument in nodes:
        total = min(total * _ways_of(str(operation), argument), MAX_WAYS + 1)
    return total


def _ways_of(operation: str, argument: Any) -> int:
    match operation:
        case _ if operation in _SINGLE:
            return 1
        case "BRANCH":
            return sum(map(_ways, argument[1]))
        case "SUBPATTERN":
            return _ways(argument[3])
        case "ASSERT" | "ASSERT_NOT":
            return _ways(argument[1])
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, repeated = int(argument[0]), int(argument[1]), argument[2]
            if most > MAX_WIDTH:
                raise ValueError(f"it repeats more than {MAX_WIDTH} times; write {{1,9}} instead of + or *")
            within = _ways(repeated)
            return int((most - least + 1) * min(within**most, MAX_WAYS + 1))
        case _:
            raise ValueError("back-references, atomic groups, possessive repeats and conditionals are not supported")
