"""Reads event streams with what people use in Python, and prints what it gave for each URL, as JSON; see readers.mjs.

    python readers.py openai|openai-async|genai|httpx-sse|sseclient URL...
"""

import asyncio
import json
import sys

MESSAGES = [{"role": "user", "content": "hello"}]


def text(data):
    try:
        return json.loads(data)["choices"][0]["delta"]["content"]
    except Exception:
        return data


def content(chunk):
    return text(chunk.model_dump_json(exclude_unset=True))


def read_openai(url, seen):
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    for chunk in client.chat.completions.create(model="parrot-1", messages=MESSAGES, stream=True):
        seen.append(["", content(chunk)])


def read_openai_async(url, seen):
    from openai import AsyncOpenAI

    async def read():
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        async for chunk in await client.chat.completions.create(model="parrot-1", messages=MESSAGES, stream=True):
            seen.append(["", content(chunk)])

    asyncio.run(read())


def read_httpx_sse(url, seen):
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client() as client, connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            if event.data == "[DONE]":
                return
            seen.append(["" if event.event == "message" else event.event, text(event.data)])


def read_genai(url, seen):
    from google import genai

    client = genai.Client(api_key="none", http_options={"base_url": url})
    for chunk in client.models.generate_content_stream(model="parrot-1", contents="hello"):
        seen.append(["", chunk.text or ""])


def read_sseclient(url, seen):
    from sseclient import SSEClient

    for event in SSEClient(url):
        if event.data == "[DONE]":
            return
        seen.append(["" if event.event == "message" else event.event, text(event.data)])


def read(reader, url):
    seen, error = [], None
    try:
        reader(url, seen)
    except Exception as problem:
        error = type(problem).__name__
    return {"seen": seen, "error": error}


readers = {
    "openai": read_openai,
    "openai-async": read_openai_async,
    "genai": read_genai,
    "httpx-sse": read_httpx_sse,
    "sseclient": read_sseclient,
}
print(json.dumps({url: read(readers[sys.argv[1]], url) for url in sys.argv[2:]}))
