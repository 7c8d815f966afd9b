"""Asks a model server with the OpenAI SDK and prints what it answered, as JSON: {"streamed", "whole", "error"}.

    python chat.py BASE_URL PAUSE_MS
"""

import json
import sys

from openai import NotFoundError, OpenAI

base_url, pause_ms = sys.argv[1], int(sys.argv[2])
client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
question = {"messages": [{"role": "user", "content": "one two three"}]}
slowly = {"thinking_ms": pause_ms, "pause_ms": pause_ms}

stream = client.chat.completions.create(model="parrot-1", stream=True, extra_body=slowly, **question)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
whole = client.chat.completions.create(model="parrot-1", **question).choices[0].message.content
try:
    client.chat.completions.create(model="gone", stream=True, **question)
except NotFoundError as problem:
    print(json.dumps({"streamed": streamed, "whole": whole, "error": problem.code}))
