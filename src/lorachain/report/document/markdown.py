"""A document as Markdown in one language. Pictures are left out: their numbers are in the tables."""

import re
from collections.abc import Iterator, Sequence

from lorachain.redaction import printable, without_tokens
from lorachain.report.document.blocks import (
    GENERATED,
    Block,
    Cell,
    Chain,
    Document,
    Figure,
    Figures,
    Fold,
    Language,
    Number,
    Paragraph,
    Quote,
    Table,
    Text,
    Words,
    parts,
)

MARK = "<!-- lorachain report -->"
"""The first line: a file without it is not overwritten."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def render_markdown(document: Document, language: Language) -> str:
    """What comes from files cannot become markup: every character that has a meaning in Markdown or HTML is escaped."""
    return "\n\n".join([MARK, *_Writer(language).document(document)]) + "\n"


class _Writer:
    def __init__(self, language: Language) -> None:
        self.language = language

    def document(self, document: Document) -> Iterator[str]:
        yield f"# {self.words(document.title)}"
        yield self.words(document.subtitle)
        yield from self.blocks(document.notice)
        for section in document.sections:
            yield f"## {self.words(section.title)}"
            yield from self.blocks(section.blocks)

    def blocks(self, blocks: Sequence[Block]) -> Iterator[str]:
        for block in blocks:
            yield from self.block(block)

    def block(self, block: Block) -> Iterator[str]:
        if isinstance(block, Paragraph) and block.kind == "legend":
            return
        if isinstance(block, Paragraph):
            text = self.words(block.words)
            yield {"warning": f"> **{text}**", "title": f"### {text}"}.get(block.kind, text)
        elif isinstance(block, Table):
            yield f"**{self.words(block.caption)}**"
            yield self.table(block)
        elif isinstance(block, Figure):
            yield f"- {self.words(block.caption)}"
        elif isinstance(block, Figures):
            yield "\n".join(line for figure in block.figures for line in self.block(figure))
        elif isinstance(block, Quote):
            lines = block.text.splitlines() or [""]
            yield f"{self.words(block.label)} ({self.words(GENERATED)}):\n\n" + "\n".join(
                f"> {self.escape(line)}  " for line in lines
            )
        elif isinstance(block, Chain):
            yield " → ".join(f"{self.words(step.name)} ({self.words(step.state)})" for step in block.steps)
        elif isinstance(block, Fold):
            yield f"**{self.words(block.summary)}**"
            yield from self.blocks(block.blocks)

    def table(self, table: Table) -> str:
        """Without columns that only have pictures."""
        kept = [i for i in range(len(table.columns)) if not _only_pictures([row[i] for row in table.rows])]
        rows = [[self.words(table.columns[i]) for i in kept], ["---"] * len(kept)]
        rows += [
            [self.words(cell.words if isinstance(cell, Cell) else cell) for i in kept for cell in (row[i],)]
            for row in table.rows
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def words(self, given: Words) -> str:
        return "".join(self.inline(part) for part in parts(given)).strip()

    def inline(self, part: str | Text | Number) -> str:
        if isinstance(part, Number):
            return self.escape(part.text)
        return self.escape(getattr(part, self.language) if isinstance(part, Text) else part)

    @staticmethod
    def escape(text: str) -> str:
        return _SPECIAL.sub(r"\\\1", printable(without_tokens(text)))


def _only_pictures(column: Sequence[Words | Cell]) -> bool:
    """Whether no cell has words, and one has a picture."""
    cells = [cell for cell in column if isinstance(cell, Cell)]
    return len(cells) == len(column) and not any(cell.words for cell in cells) and any(cell.picture for cell in cells)
