"""The plain style of messages, docstrings and documentation: words that are not used, and what to write instead."""

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Banned:
    """A phrase that is not used."""

    pattern: str
    """A regular expression, case-insensitive; a space matches a line break, a comment sign and closing quotes too."""
    instead: str
    bad: str
    """An example that the pattern must find."""
    good: str = ""
    """A similar text that it must leave alone."""
    prose_only: bool = False
    """In Python files, only comments and strings count: the word is an ordinary variable name."""

    @property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern.replace(" ", r"[\s#\"'f]+"), re.IGNORECASE)


BANNED = [
    Banned(r"(?<!in-)\bhouse\b", "say what is meant: export, write to a directory", "Let the chain leave the house"),
    Banned(
        r"\brooms?\b(?! for\b)",
        "package, module; space in memory",
        "the only room that imports peft",
        "makes room for one more id",
        prose_only=True,
    ),
    Banned(r"(?<!noise.)\bfloors?\b(?!\()", "lowest layer, lower limit", "from the ground floor up", "math.floor(x)"),
    Banned(
        r"(?<!-)\bst(?:ands?|ood)\b(?! (?:for|in for|out)\b)(?!-)",
        "is, is written, exists, is based on",
        "What stands of the chain",
        "the letters stand for the options; a stand-in for a model",
    ),
    Banned(r"\bmend(?:s|ed|ing)?\b", "fix", "mend or delete it", "amend, recommended"),
    Banned(r"\bwith a word\b", "with a message", "taken over with a word"),
    Banned(r"\bin words\b", "as text; `summary`", "the result in words", "in other words"),
    Banned(r"\banew\b", "again, new, recreated", "made anew"),
    Banned(r"\btold (?:\w+ )?from\b", "significantly different from; distinguished from", "cannot be told from chance"),
    Banned(r"\bhears?\b", "is called with, receives", "Hears how many are done"),
    Banned(
        r"\bproofs?\b|\bprov(?:e|es|ed|en|ing)\b",
        "check, verify; a comparison of numbers is not a proof",
        "repeat the proof; every link proved",
        "provenance provides a provider",
    ),
    Banned(r"\bswallow(?:s|ed|ing)?\b", "lost to rounding; ignored", "how many updates were swallowed"),
    Banned(r"quantis", "quantiz-", "a de-quantised base", "quantized"),
    Banned(
        r"\bis no (?:\w+ )?(?:folder|directory|file|model)\b", "is not a …", "it is no folder", "is no longer a file"
    ),
    Banned(r"\b(?:go|goes|going|went) on where\b", "resumes", "goes on where it stopped", "goes on with the next step"),
    Banned(r"\basked of a model\b", "what the model is prompted with", "what is asked of a model"),
]

ALLOWED: dict[tuple[str, str], str] = {
    ("src/lorachain/artifacts/validation.py", "told from"): "reads a summary of schema version 1",
    ("CHANGELOG.md", "swallowed"): "names a JSON key of version 0.1.0",
    ("CHANGELOG.md", "quantis"): "names an extra of version 0.1.0",
    ("src/lorachain/artifacts/merging.py", "swallowed"): "reads a JSON key of schema version 1",
    ("src/lorachain/artifacts/merging.py", "quantis"): "reads JSON keys of schema version 1",
    ("src/lorachain/artifacts/stages.py", "quantis"): "reads a JSON key of schema version 1",
}
"""(file, matched text) that stays, with the reason."""

SUFFIXES = {".py", ".md", ".toml", ".jinja", ".yml", ".yaml", ".cff"}
FOLDERS = ("src", "script", "docs", "examples", "benchmarks", ".github")


def written_files() -> list[Path]:
    """Everything that a user or a contributor reads, but for the tests."""
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    beside = [path for path in ROOT.iterdir() if path.suffix in SUFFIXES or path.name == "Makefile"]
    return sorted(path for path in below + beside if path.is_file())


def prose(path: Path, text: str) -> str:
    """Comments and strings of a Python file on their own lines, with everything else blanked; other files whole."""
    if path.suffix != ".py":
        return text
    lines = [""] * (text.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for offset, line in enumerate(token.string.split("\n")):
                lines[token.start[0] - 1 + offset] += f" {line}"
    return "\n".join(lines)


def occurrences(path: Path) -> Iterator[tuple[int, str, Banned]]:
    """(line number, matched text, phrase) of every banned phrase in a file."""
    text = path.read_text(encoding="utf-8")
    only_prose = prose(path, text)
    for banned in BANNED:
        searched = only_prose if banned.prose_only else text
        for match in banned.regex.finditer(searched):
            yield searched.count("\n", 0, match.start()) + 1, match.group(), banned


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", written_files(), ids=name_of)
def test_plain_words_are_used(path: Path) -> None:
    faults = [
        f"{name_of(path)}:{line}: {' '.join(text.split())!r}; write: {banned.instead}"
        for line, text, banned in occurrences(path)
        if (name_of(path), text.lower()) not in ALLOWED
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("banned", BANNED, ids=lambda banned: banned.pattern)
def test_a_pattern_finds_its_phrase_and_nothing_similar(banned: Banned) -> None:
    assert banned.regex.search(banned.bad)
    assert banned.regex.search(banned.bad.upper())
    assert not banned.regex.search(banned.good)


def test_a_phrase_is_found_across_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('room = 1\nfail("PATH is no "\n     "folder")\n# the data\n# room\n', encoding="utf-8")
    assert [(line, banned.instead) for line, _, banned in occurrences(path)] == [
        (5, "package, module; space in memory"),
        (2, "is not a …"),
    ]


def test_every_exception_is_still_needed() -> None:
    used = {(name_of(path), text.lower()) for path in written_files() for _, text, _ in occurrences(path)}
    assert ALLOWED.keys() <= used
