"""An SSE backend in FastAPI: named events with sse-starlette, and the streaming API of a model server (chat.py).

    python app.py                  http://127.0.0.1:3000/events, an event a second
    PORT=0 INTERVAL_MS=200 COUNT=3 python app.py
"""

import asyncio
import json
import math
import os
import socket
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header
from sse_starlette import EventSourceResponse, ServerSentEvent

import chat

INTERVAL = float(os.environ.get("INTERVAL_MS", 1000)) / 1000
COUNT = float(os.environ.get("COUNT", math.inf))

app = FastAPI(title="An SSE backend")
app.include_router(chat.router)

# One queue or task per client is what a real application keeps here; a number is enough to show when clients leave.
clients: set[object] = set()


async def ticks(after: int, silent: bool, comments: bool) -> AsyncIterator[ServerSentEvent]:
    client = object()
    clients.add(client)
    try:
        if silent:
            await asyncio.Event().wait()
        number, last = after, after + COUNT
        while number < last:
            await asyncio.sleep(INTERVAL)
            number += 1
            if comments:
                yield ServerSentEvent(comment=f"before {number}")
            yield ServerSentEvent(json.dumps({"number": number}), event="tick", id=str(number))
    finally:
        # sse-starlette cancels this generator as soon as the connection is closed: an `await` above raises.
        clients.discard(client)


@app.get("/events")
async def events(
    silent: bool = False,
    comments: bool = False,
    last_event_id: Annotated[int, Header()] = 0,
) -> EventSourceResponse:
    # ping=0: sse-proxy sends the heartbeats, and can then tell a silent backend from a living one.
    return EventSourceResponse(ticks(last_event_id, silent, comments), ping=0)


@app.get("/clients")
async def count_clients() -> int:
    """How many streams are open, as far as this process knows."""
    return len(clients) + len(chat.clients)


if __name__ == "__main__":
    # Bound here and not by uvicorn, so that PORT=0 can say which port it became.
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", 3000))), backlog=2048)
    print("listening on %s:%d" % listener.getsockname(), flush=True)
    config = uvicorn.Config(app, log_level="warning", proxy_headers=True, forwarded_allow_ips="127.0.0.1")
    uvicorn.Server(config).run(sockets=[listener])
