"""Serving the page: limits, temporary files of its own, and no connections but between browser and this machine."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam_age.demo.studio import Studio
from sam_age.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")

# The browser is told to load nothing from elsewhere and to send nothing elsewhere. Gradio's own scripts are inline
# and make functions of text; pictures are data within the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",  # faces are not for caches
}

# What Gradio offers besides, and this page has no use for: it takes films and hands them to ffmpeg, stores what a link
# is to bring back, fetches for others, tells of its use.
CLOSED = re.compile(r"/(process_recording|deep_link|run-history|runs|proxy=|monitoring|profiling|(undo-)?vibe-)")

# read when Gradio is imported: nothing is reported, nothing is looked up
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def need_gradio() -> None:
    """Import it, in quiet; `InputError` if it is not installed."""
    os.environ.update(QUIET)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is up
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise InputError("The web page needs Gradio: pip install 'sam-age[demo]'.") from None


class _Guard:
    """ASGI middleware: `CLOSED` is not there, and `HEADERS` are on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                message = {**message, "headers": kept + ours}
            await send(message)

        if scope["type"] == "http" and CLOSED.search(scope["path"]):
            await PlainTextResponse("Not here.", status_code=404)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Gradio fetches the address that a visitor gives in a file's place: not here."""
    from gradio import processing_utils

    async def refuse(url: str) -> None:
        raise ValueError("An upload is a file's content, never an address.")

    before = processing_utils.async_ssrf_protected_get  # all of its downloads go through this one
    processing_utils.async_ssrf_protected_get = refuse
    try:
        yield
    finally:
        processing_utils.async_ssrf_protected_get = before


@contextmanager
def _own_folder() -> Iterator[None]:
    """Gradio's files go to a private folder, which goes when the page does."""
    from gradio import routes

    before, usual = os.environ.get("GRADIO_TEMP_DIR"), routes.DEFAULT_TEMP_DIR
    with tempfile.TemporaryDirectory(prefix="sam-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = routes.DEFAULT_TEMP_DIR = folder  # parts remember the first, routes the other
        try:
            yield
        finally:
            routes.DEFAULT_TEMP_DIR = usual
            if before is None:
                os.environ.pop("GRADIO_TEMP_DIR", None)
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def running(
    studio: Studio,
    note: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    queue_size: int = 32,
    sessions: int = 32,
    open_browser: bool = False,
) -> Iterator[str]:
    """The page, served while the context lasts; its address. What was uploaded meanwhile is gone afterwards.

    Args:
        host: whom to answer: 127.0.0.1 is this machine alone.
        port: None: the first free one from 7860.
        queue_size: requests that wait; more are told to come back.
        sessions: visitors whose face is kept; the longest idle is forgotten for a new one.
    """
    need_gradio()
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from sam_age.demo.page import THEME, build

    middleware = [Middleware(_Guard)]
    if host in LOCAL:  # another site's page cannot reach in by a name that it points here
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"]))
    with _no_downloads(), _own_folder():
        page = build(studio, note)
        page.queue(max_size=queue_size, api_open=False)
        style = Path(__file__).with_name("style.css")
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
                inbrowser=open_browser, max_file_size=int(studio.limits.megabytes * 1e6), show_error=False,
                state_session_capacity=sessions, enable_monitoring=False, ssr_mode=False, run_history=False,
                footer_links=[], mcp_server=False, strict_cors=True, theme=THEME, css_paths=style,
                app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
            )  # fmt: skip
        except OSError:
            where = f"{host}:{port}" if port else f"{host}, ports 7860 to 7959"
            raise InputError(
                f"The page cannot be served at {where}, taken or not this machine's: give port=..."
            ) from None
        try:
            yield address
        finally:
            page.close(verbose=False)


def note_of(name: str) -> str:
    """What a visitor should know of the model."""
    if name == "lifespan":
        return (
            "Move the slider; everything happens on this machine. The model knows portraits of people who never lived: "
            "of a photograph it makes one of them."
        )
    return "Move the slider; everything happens on this machine, and no photo is kept. Ask before you age others."
