"""app."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app


@app.command("app", epilog="Example: lorachain app --model medgemma-4b --lang ko")
def serve_app(
    others: Annotated[
        str | None,
        typer.Option("--models", metavar="A,B,…", help="Directories and hub ids to ask besides the chain."),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Results of `lorachain eval` to browse; the last is compared with the first."),
    ] = None,
    language: Annotated[Literal["en", "ko"], typer.Option("--lang", help="In which the page begins.")] = "en",
    host: Annotated[str, typer.Option("--host", help="Address to serve at.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="With --host: let other machines use the page. It has no password.")
    ] = False,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    device: o.Device = None,
) -> None:
    """Serve a page in the browser: ask and compare models, browse the exam, watch a training. For research."""
    from lorachain.app.server import check_gradio, check_host, is_loopback, served

    check_gradio()
    check_host(host, allow_remote=allow_remote)
    context = o.build_context(o.Common(model, workspace, config, device=device), "app")

    from lorachain.app.session import Session
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.exam_results import load_exam_results
    from lorachain.chain.scored_model import find_scored_model
    from lorachain.report.console import ConsoleReporter

    quiet_libraries()
    console = ConsoleReporter()
    names = tuple(name.strip() for name in (others or "").split(",") if name.strip())
    for name in names:
        find_scored_model(context, name)
    load_exam_results(results or [])
    if not is_loopback(host):
        print(
            f"warning: {host} can be reached by other machines; the page has no password. It shows exam questions and "
            "the models' answers, and anyone who reaches it can ask the models",
            file=sys.stderr,
        )
    with served(Session(context, names, tuple(results or ())), host=host, port=port, language=language) as address:
        console.message(f"the page of {context.model} is {address}; Ctrl+C ends it")
        wait_for_interrupt(address)
    console.message("the page is closed")


def wait_for_interrupt(address: str) -> None:
    """Returns when Ctrl+C is pressed while the page is served at `address`."""
    import threading
    from contextlib import suppress

    with suppress(KeyboardInterrupt):
        threading.Event().wait()
