"""The ASGI application: routes, error handlers and what they share in `app.state`."""

from __future__ import annotations

import contextlib
import importlib.util
from importlib import import_module
from typing import TYPE_CHECKING

from fastapi import FastAPI

from pydllm_gateway import failures
from pydllm_gateway.engine import Engine
from pydllm_gateway.http import Lifecycle
from pydllm_gateway.metrics import Metrics
from pydllm_gateway.observe import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pydllm_gateway.settings import Settings

_ROUTES = ("health", "metrics", "models", "tokenize", "chat", "completions", "generate", "docs")


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The application. Its lifespan owns the engine's channel; an `engine` given here is used and left open."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = engine or Engine(settings)
        try:
            yield
        finally:
            if engine is None:
                await app.state.engine.close()

    app = FastAPI(title="pydllm", lifespan=lifespan, redirect_slashes=False, openapi_url=None)
    app.state.settings = settings
    app.state.lifecycle = Lifecycle()
    app.state.metrics = Metrics()
    app.add_middleware(Observer, metrics=app.state.metrics, settings=settings)
    failures.install(app)
    for name in _ROUTES:
        if importlib.util.find_spec(f"pydllm_gateway.routes.{name}"):
            app.include_router(import_module(f"pydllm_gateway.routes.{name}").router)
    return app
