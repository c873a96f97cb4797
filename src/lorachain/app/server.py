"""Serves the page: on this machine alone unless told otherwise, and without the network."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lorachain.app.policy import PolicyMiddleware
from lorachain.errors import ConfigError
from lorachain.report.document.blocks import Language
from lorachain.report.document.html import style_of_blocks

if TYPE_CHECKING:
    from lorachain.app.session import Session

_OLDEST = 6
"""Major version of Gradio."""
_INSTALL = "install it with: pip install 'lorachain[app]'"


def check_gradio() -> None:
    """Raises ConfigError where Gradio is missing or too old."""
    try:
        installed = version("gradio")
    except PackageNotFoundError as error:
        raise ConfigError(f"`lorachain app` needs Gradio, which is not installed; {_INSTALL}") from error
    if int(installed.split(".")[0]) < _OLDEST:
        raise ConfigError(f"`lorachain app` needs Gradio {_OLDEST} or later; {installed} is installed; {_INSTALL}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, *, allow_remote: bool) -> None:
    """Raises ConfigError where other machines could reach the page without having been allowed to."""
    if not is_loopback(host) and not allow_remote:
        raise ConfigError(
            f"--host {host} lets other machines use the page, which has no password and shows exam questions and "
            "answers of the models; add --allow-remote if that is meant, or reach 127.0.0.1 through an SSH tunnel"
        )


@contextmanager
def served(session: "Session", *, host: str, port: int | None, language: Language) -> Iterator[str]:
    """The address of the page while it is served.

    Args:
        port: None: the first free one from 7860 on.

    Raises:
        ConfigError: the address cannot be used.
    """
    # Gradio reads these when it is imported, and asks its own server whether it has started, which a proxy would catch.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host, "localhost", "127.0.0.1")))
    page = import_module("lorachain.app.page").build_page(session, language)
    try:
        page.launch(**_launch_options(host, port))
    except OSError as error:
        tried = f"port {port} is" if port else "ports 7860 to 7959 are"
        raise ConfigError(
            f"the page cannot be served: {tried} in use at {host}, or {host} is no address of this machine; name "
            "another --port or --host"
        ) from error
    try:
        yield str(page.local_url)
    finally:
        session.stop()
        page.close(verbose=False)
        session.held.release()


def _launch_options(host: str, port: int | None) -> dict[str, Any]:
    import gradio as gr
    from starlette.middleware import Middleware

    fonts = ["system-ui", "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", "Noto Sans CJK KR", "sans-serif"]
    return {
        "server_name": host,
        "server_port": port,
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,  # a share link would send everything through a server of Gradio
        "run_history": False,  # which would keep questions and answers in the browser
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "pwa": False,
        "footer_links": [],
        "max_file_size": 1,  # the page takes no files
        "app_kwargs": {
            "middleware": [Middleware(PolicyMiddleware)],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        "theme": gr.themes.Default(
            primary_hue="teal",
            neutral_hue="slate",
            font=[gr.themes.Font(name) for name in fonts],
            font_mono=[gr.themes.Font(name) for name in ("ui-monospace", "monospace")],
        ).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800"),
        "head": f"<style>{_style()}</style>",  # Gradio rewrites the selectors of a `css`
    }


def _style() -> str:
    return style_of_blocks(".blocks") + (files("lorachain.app") / "app.css").read_text(encoding="utf-8")
