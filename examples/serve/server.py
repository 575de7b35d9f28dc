"""Serves every model of a store over HTTP: python examples/serve/server.py STORE --port 8000"""

from __future__ import annotations

import argparse
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from batching import Batcher, QueueFullError
from engine import Engine, Row
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr


class Question(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid")
    model: StrictStr
    text: StrictStr | None = None
    input_ids: list[StrictInt] | None = None


class Answer(BaseModel):
    """What comes back."""

    model: str
    logits: list[float]


def create_app(
    engine: Engine, *, max_batch: int = 32, max_wait: float = 0.005, max_queue: int = 1024
) -> FastAPI:
    """The application; its batches run while it lives."""
    batcher: Batcher[Row, list[float]]

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher
        options = {"max_batch": max_batch, "max_queue": max_queue}
        async with Batcher(engine.run, max_wait=max_wait, **options) as batcher:
            yield

    app = FastAPI(title="pydelta", lifespan=life)

    @app.middleware("http")
    async def count_refusals(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        if response.status_code >= 400:
            engine.counts.refused[response.status_code] += 1
        return response

    @app.post("/predict")
    async def predict(question: Question) -> Answer:
        if question.model not in engine.names:
            known = ", ".join(engine.names)
            raise HTTPException(404, f"no model {question.model!r}; there are {known}")
        try:
            ids = engine.tokens(question.text, question.input_ids)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        try:
            return Answer(model=question.model, logits=await batcher.ask(Row(question.model, ids)))
        except QueueFullError:
            raise HTTPException(503, "too many requests are waiting") from None

    @app.get("/models")
    async def models() -> list[str]:
        return engine.names

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return metrics_of(engine)

    return app


def metrics_of(engine: Engine) -> str:
    """The counts as Prometheus reads them."""
    counts = engine.counts
    lines = [
        f'pydelta_requests_total{{model="{_escaped(m)}"}} {n}' for m, n in sorted(counts.requests.items())
    ]
    lines += [f'pydelta_refused_total{{status="{s}"}} {n}' for s, n in sorted(counts.refused.items())]
    lines += [
        f"pydelta_batches_total {counts.batches}",
        f"pydelta_batch_rows_total {counts.rows}",
        f"pydelta_batch_rows_max {counts.largest}",
        f"pydelta_swaps_saved_total {counts.swaps_saved}",
        f"pydelta_resident_bytes_max {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"')


def main() -> None:
    parser = argparse.ArgumentParser(description="serves every model of a store over HTTP")
    parser.add_argument("store")
    parser.add_argument("--base", help="where the store's base is")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--max-wait-ms", type=float, default=5.0)
    parser.add_argument("--max-queue", type=int, default=1024)
    options = parser.parse_args()
    app = create_app(
        Engine(options.store, options.base),
        max_batch=options.max_batch,
        max_wait=options.max_wait_ms / 1000,
        max_queue=options.max_queue,
    )
    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
