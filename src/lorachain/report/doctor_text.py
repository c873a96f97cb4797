"""What `lorachain doctor` found, for the terminal."""

from rich.text import Text

from lorachain.artifacts import Check, ShownExample
from lorachain.redaction import printable, without_tokens

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}
_STATE_WIDTH, _NAME_WIDTH = 8, 20
_HEAD, _TAIL = 60, 40
"""Tokens shown of a longer example: around where supervision begins, and at its end."""


def check_text(check: Check) -> Text:
    """State, name and message; below them how to fix it."""
    text = Text()
    text.append(f"{check.state:<{_STATE_WIDTH}}", style=_STYLES[check.state])
    text.append(f"{printable(check.name):<{_NAME_WIDTH}} ")
    text.append(printable(without_tokens(check.message)))
    if check.fix:
        text.append(
            f"\n{'':<{_STATE_WIDTH}}{'fix:':>{_NAME_WIDTH}} {printable(without_tokens(check.fix))}", style="dim"
        )
    return text


def example_text(example: ShownExample) -> Text:
    """The tokens with `|` between them: those of the prompt in grey, those that are trained in green, behind `>>>`."""
    text = Text(f"{'':<{_STATE_WIDTH}}{f'stage {example.stage}, trained:':<{_NAME_WIDTH}} ")
    first = next((number for number, token in enumerate(example.tokens) if token.supervised), len(example.tokens))
    shown = _shown(len(example.tokens), first)
    previous = -1
    for number in shown:
        token = example.tokens[number]
        if number != previous + 1:
            text.append(f"| … {number - previous - 1} tokens … ", style="dim")
        if number == first:
            text.append(" >>> ", style="bold")
        elif number:
            text.append("|", style="dim")
        text.append(_visible(token.text), style="green" if token.supervised else "bright_black")
        previous = number
    return text


def _shown(count: int, first: int) -> list[int]:
    """Numbers of the tokens that are shown."""
    if count <= _HEAD + _TAIL:
        return list(range(count))
    start = max(0, min(first - _HEAD // 2, count - _HEAD - _TAIL))
    beginning = [*range(0, min(2, start)), *range(start, start + _HEAD)]
    return [*beginning, *range(max(beginning[-1] + 1, count - _TAIL), count)]


def _visible(text: str) -> str:
    return printable(text.replace("\n", "⏎"))


def summary_text(checks: tuple[Check, ...]) -> Text:
    """How many checks there were of each state."""
    counts = {state: sum(check.state == state for check in checks) for state in _STYLES}
    text = Text(f"{len(checks)} checks: {counts['ok']} ok")
    for state in ("warning", "failure"):
        number = counts[state]
        text.append(", ")
        text.append(f"{number} {state}{'' if number == 1 else 's'}", style=_STYLES[state] if number else "")
    return text
