"""An OpenAI-compatible chat endpoint, as model servers offer it: one JSON answer, or tokens as server-sent events.

It repeats what it was told, word by word. Three keys beside OpenAI's own make it as slow as a model that thinks:

    queue_ms      before the response head, as a server with a full queue
    thinking_ms   after the head and before the first token
    pause_ms      between two tokens

With the official SDKs they go into `extra_body`. Their defaults come from QUEUE_MS, THINKING_MS and PAUSE_MS.
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

MODEL = "parrot-1"

router = APIRouter(prefix="/v1")
clients: set[object] = set()


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    model: str
    messages: list[Message]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    queue_ms: float = float(os.environ.get("QUEUE_MS", 0))
    thinking_ms: float = float(os.environ.get("THINKING_MS", 0))
    pause_ms: float = float(os.environ.get("PAUSE_MS", 0))

    def answer(self) -> list[str]:
        """The tokens: a word each, with the space before it."""
        words = ["You", "said:", *(self.messages[-1].text() if self.messages else "").split()]
        return [word if at == 0 else f" {word}" for at, word in enumerate(words)]

    def usage(self) -> dict[str, int]:
        prompt = sum(len(message.text().split()) for message in self.messages)
        completion = len(self.answer())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Chunk(BaseModel):
    """One event of the stream: what has been added to the answer since the one before."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int] | None = None

    def event(self) -> str:
        return f"data: {self.model_dump_json()}\n\n"


async def tokens(request: ChatRequest, name: str, created: int) -> AsyncIterator[str]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return Chunk(id=name, created=created, model=request.model, choices=[choice]).event()

    client = object()
    clients.add(client)
    try:
        await asyncio.sleep(request.thinking_ms / 1000)
        yield chunk({"role": "assistant", "content": ""})
        for token in request.answer():
            yield chunk({"content": token})
            await asyncio.sleep(request.pause_ms / 1000)
        yield chunk({}, "stop")
        if request.stream_options and request.stream_options.include_usage:
            yield Chunk(id=name, created=created, model=request.model, choices=[], usage=request.usage()).event()
        yield "data: [DONE]\n\n"
    finally:
        # Under uvicorn Starlette cancels this generator as soon as the connection is closed: no token is made for nobody.
        clients.discard(client)


@router.post("/chat/completions")
async def chat_completions(request: ChatRequest) -> Response:
    if request.model != MODEL:
        problem = {"message": f"The model `{request.model}` does not exist", "type": "invalid_request_error"}
        return JSONResponse({"error": problem | {"param": "model", "code": "model_not_found"}}, status_code=404)
    name, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    await asyncio.sleep(request.queue_ms / 1000)
    if request.stream:
        return StreamingResponse(
            tokens(request, name, created), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )
    answer = request.answer()
    await asyncio.sleep((request.thinking_ms + request.pause_ms * len(answer)) / 1000)
    message = {"role": "assistant", "content": "".join(answer), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"id": name, "object": "chat.completion", "created": created, "model": request.model}
    return JSONResponse(body | {"choices": [choice], "usage": request.usage()})


@router.get("/models")
async def models() -> dict[str, Any]:
    model = {"id": MODEL, "object": "model", "created": 1700000000, "owned_by": "examples"}
    return {"object": "list", "data": [model]}
