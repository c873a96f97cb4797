"""data show."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.data_app import data_app

if TYPE_CHECKING:
    from lorachain.artifacts.data_summary import ReadAs


class Kind(StrEnum):
    """What a source is read as."""

    plain = "plain"
    dictionary = "dictionary"
    exam = "exam"
    instruct = "instruct"


@data_app.command(epilog="Example: lorachain data show terms.xlsx --as dictionary --model gemma-3-270m")
def show(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE…", help="Paths, hub ids, or `sample`.")],
    kind: Annotated[
        Kind | None, typer.Option("--as", help="What the sources are; by default, what their first rows are.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Count its tokens, and show its chat template.")] = None,
    workspace: o.WorkspaceDir = o.HERE,
    encoding: o.Encoding = None,
    sheet: o.Sheet = None,
    columns: o.Columns = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=1, help="Read at most so many records.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what sources contain: counts, lengths, languages, duplicates, what is refused and why, and what a model
    would be trained on. Nothing is trained or written."""
    import json

    from lorachain.artifacts.data_summary import DataSummary
    from lorachain.chain.data_summary import summarize_sources
    from lorachain.data.columns import FIELDS, fields_of, kinds_of_field
    from lorachain.data.read_options import columns_of, options_of
    from lorachain.data.sources import with_defaults
    from lorachain.errors import ConfigError
    from lorachain.report.data_summary import summary_lines

    context = o.build_context(o.Common(model, workspace), "data show") if model is not None else None
    given = {name: value for name, value in (("encoding", encoding), ("sheet", sheet)) if value is not None}
    named_columns = columns_of(columns or "")
    if unknown := next((field for field in named_columns if not kinds_of_field(field)), None):
        raise ConfigError(f"--columns names the field {unknown!r}; allowed: {fields_of(list(FIELDS))}")
    defaults = options_of({**given, **named_columns}, "data show")
    named = [with_defaults(source, defaults) for source in sources]
    read_as: dict[Kind, ReadAs] = {
        Kind.plain: "plain text",
        Kind.dictionary: "dictionary",
        Kind.exam: "exam",
        Kind.instruct: "instructions",
    }
    summaries = summarize_sources(
        [(name, None if kind is None else read_as[kind]) for name in named], context, max_records=max_samples
    )
    if as_json:
        result = DataSummary(model=model, sources=tuple(summaries))
        print(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
        return
    for number, summary in enumerate(summaries):
        print("\n" if number else "", end="")
        for line in summary_lines(summary):
            print(line)
