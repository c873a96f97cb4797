"""A document as one HTML file: no script, nothing from the network, everything from files escaped."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from lorachain.redaction import printable, without_tokens
from lorachain.report.document.blocks import GENERATED, Block, Cell, Document, Language, Number, Text, Words, parts

GENERATOR = "lorachain report"
"""Of the page's `meta` element: a file without it is not overwritten."""


def render_html(document: Document, language: Language) -> str:
    """The page. Both languages are in it; a switch without script shows one of them, at first `language`.

    The content security policy allows the page's own style sheet, by its hash, and nothing else.
    """
    style = "".join(map(_template, ("colors.css", "blocks.css", "report.css")))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("report.html.jinja")
    return template.render(
        document=document, language=language, policy=policy, style=Markup(style), generator=GENERATOR
    )


def render_blocks(blocks: Sequence[Block], prefix: str) -> Markup:
    """Blocks as a part of another page, in both languages; `style_of_blocks` shows one of them.

    Args:
        prefix: what the ids of their elements begin with, unique in the page.
    """
    module: Any = _environment().get_template("blocks.html.jinja").module
    return Markup(module.blocks_of(blocks, prefix))


def style_of_blocks(within: str) -> str:
    """The colors, and the rules of `render_blocks` for what is within the elements of that selector."""
    return f"{_template('colors.css')}{within} {{\n{_template('blocks.css')}}}\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_template),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": _words, "quoted": _quoted, "breakable": _breakable}
    environment.globals |= {
        "is_cell": lambda value: isinstance(value, Cell),
        "is_figure": _is_figure,
        "generated": GENERATED,
    }
    return environment


def _template(name: str) -> str:
    return (files("lorachain.report") / "templates" / name).read_text(encoding="utf-8")


def _is_figure(value: Words | Cell) -> bool:
    """Whether a cell begins with a number, so that it is not wrapped."""
    first = parts(value.words if isinstance(value, Cell) else value)[:1]
    return bool(first) and isinstance(first[0], Number)


def _words(given: Words) -> Markup:
    return Markup("").join(_inline(part) for part in parts(given))


def _inline(part: str | Text | Number) -> Markup:
    if isinstance(part, Number):
        return Markup('<data value="{0}">{1}</data>').format(repr(part.value), part.text)
    if isinstance(part, Text):
        if part.en == part.ko:
            return escape(_clean(part.en))
        spans = ((language, text) for language, text in (("en", part.en), ("ko", part.ko)) if text)
        return Markup("").join(Markup('<span lang="{0}">{1}</span>').format(name, _clean(text)) for name, text in spans)
    return escape(_clean(part))


def _breakable(name: str) -> Markup:
    """A name that may be wrapped after its underscores, rather than anywhere."""
    return Markup("_<wbr>").join(_clean(name).split("_"))


def _quoted(text: str) -> str:
    """What a model wrote, with its lines."""
    return "\n".join(_clean(line) for line in text.splitlines())


def _clean(text: str) -> str:
    """No secret, and no control character or direction mark that could change how the rest is shown."""
    return printable(without_tokens(text))
