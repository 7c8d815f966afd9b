"""Reads responses to their ends, and prints as JSON what each gave and how it ended; see breaks.mjs.

    python breaks.py requests|httpx|httpx-http2|urllib3|urllib|aiohttp|openai|anthropic URL...
"""

import asyncio
import json
import ssl
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

# The certificate of the test signs itself.
warnings.filterwarnings("ignore")
ACCEPT = {"Accept": "text/event-stream"}
MESSAGES = [{"role": "user", "content": "hello"}]


def read_requests(url, see):
    import requests

    with requests.get(url, headers=ACCEPT, stream=True, verify=False) as response:
        for line in response.iter_lines():
            see(line.decode() + "\n")


def read_httpx(url, see, http2=False):
    import httpx

    with httpx.Client(verify=False, http2=http2) as client, client.stream("GET", url, headers=ACCEPT) as response:
        for piece in response.iter_text():
            see(piece)


def read_httpx_http2(url, see):
    read_httpx(url, see, http2=True)


def read_urllib3(url, see):
    import urllib3

    pool = urllib3.PoolManager(cert_reqs="CERT_NONE")
    for piece in pool.request("GET", url, headers=ACCEPT, preload_content=False, retries=False).stream():
        see(piece.decode())


def read_urllib(url, see):
    from urllib.request import Request, urlopen

    context = ssl._create_unverified_context() if url.startswith("https:") else None
    # By lines, as event streams are read: that is where it is blind to most breaks.
    for line in urlopen(Request(url, headers=ACCEPT), context=context):
        see(line.decode())


def read_aiohttp(url, see):
    import aiohttp

    async def read():
        async with aiohttp.ClientSession() as session, session.get(url, headers=ACCEPT, ssl=False) as response:
            async for line in response.content:
                see(line.decode())

    asyncio.run(read())


def read_openai(url, see):
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    for chunk in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
        see(chunk.choices[0].delta.content)


def read_anthropic(url, see):
    from anthropic import Anthropic

    client = Anthropic(base_url=url, api_key="none", max_retries=0)
    for event in client.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True):
        if event.type == "content_block_delta":
            see(event.delta.text)


def read(reader, url):
    seen, error = [], None
    try:
        reader(url, seen.append)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    return {"text": "".join(seen), "error": error}


reader = globals()["read_" + sys.argv[1].replace("-", "_")]
urls = sys.argv[2:]
with ThreadPoolExecutor(len(urls)) as threads:
    print(json.dumps(dict(zip(urls, threads.map(lambda url: read(reader, url), urls)))))
