"""The commands below `lorachain data`."""

import typer

from lorachain.cli.app import app

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="Look at sources, and check them before anything is trained on them.")
