"""The application that every command registers with."""

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Chained LoRA for Korean medicine on Gemma 3, every link proved. "
    "`--debug` anywhere shows the traceback of an error.",
)
