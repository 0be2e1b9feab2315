"""Play the language model by hand: a server keeps requests as files, and answers each once a reply lies beside it.

python -m sia_testing.by_hand serve FOLDER --port 8765
python -m sia_testing.by_hand next FOLDER          # prints the next request, once there is one
python -m sia_testing.by_hand reply FOLDER FILE    # answers it: {"text": "...", "uses": [{"name", "arguments"}]}
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sia_testing.model_server import Asked, ModelServer, Turn, Use

_TICK_SECONDS = 0.05


class _Played(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlayedUse(_Played):
    """A call of a tool."""

    name: str
    arguments: dict[str, Any] = {}


class PlayedReply(_Played):
    """A reply as a person writes it."""

    text: str = ""
    uses: list[PlayedUse] = []


class Table:
    """A folder of requests and replies, by number. A server that was started again goes on where another was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.Lock()

    def answered(self, request: Asked, closing: threading.Event) -> Turn:
        """The reply to a request, which is waited for; one that comes again waits for the same one."""
        text = json.dumps(request.body, ensure_ascii=False, sort_keys=True).encode(errors="replace").decode()
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        with self._mutex:
            requests = sorted(self._folder.glob("*.request.json"))
            same = [each for each in requests if f"-{name}." in each.name and not _beside(each, "sent").exists()]
            path = same[0] if same else self._folder / f"{len(requests) + 1:04d}-{name}.request.json"
            if not same:
                _write(path, text)
        sent = _beside(path, "sent")
        while not closing.wait(_TICK_SECONDS):
            with suppress(FileNotFoundError):
                _beside(path, "reply").rename(sent)
                played = PlayedReply.model_validate_json(sent.read_text(encoding="utf-8"))
                return Turn(played.text, [Use(each.name, each.arguments) for each in played.uses])
        return Turn()

    def waiting(self) -> list[Path]:
        """The requests without a reply, the oldest first."""
        requests = sorted(self._folder.glob("*.request.json"))
        return [each for each in requests if not any(_beside(each, kind).exists() for kind in ("reply", "sent"))]

    def next(self) -> str:
        """The next request in words, once there is one."""
        while not (waits := self.waiting()):
            time.sleep(_TICK_SECONDS)
        body = json.loads(waits[0].read_text(encoding="utf-8"))
        whole = "\n\n".join((f"# Request {waits[0].name.partition('-')[0]}", *_told(body)))
        return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in whole)

    def reply(self, text: str) -> None:
        """Answer the next request; ValueError where the text is no reply, or nothing is asked."""
        played = PlayedReply.model_validate_json(text)
        if not (waits := self.waiting()):
            raise ValueError("no request waits for a reply")
        _write(_beside(waits[0], "reply"), played.model_dump_json())


def _beside(request: Path, kind: Literal["reply", "sent"]) -> Path:
    """The reply to a request: one that waits to be sent, or that was."""
    return request.with_name(request.name.replace(".request.", f".{kind}."))


def _write(path: Path, text: str) -> None:
    """The file appears whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(path)


def _told(body: Mapping[str, Any]) -> Iterator[str]:
    """A conversation's first request in full; of a later one the part since the last reply."""
    messages = body["messages"]
    last = max((place for place, each in enumerate(messages) if each["role"] == "assistant"), default=-1)
    if last < 0:
        if body.get("system"):
            yield f"## system\n\n{_text(body['system'])}"
        for tool in body.get("tools") or ():
            about = tool.get("function", tool)
            schema = json.dumps(about.get("parameters", about.get("input_schema")), ensure_ascii=False)
            yield f"## tool {about.get('name')}\n\n{about.get('description')}\n\n{schema}"
    for message in messages[last + 1 :]:
        yield f"## {message['role']}\n\n{_text(message.get('content'))}"


def _text(content: Any) -> str:
    """The text of a message in either protocol, or of none."""
    if isinstance(content, str):
        return content
    blocks = [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    return "\n\n".join(str(each["text"]) if "text" in each else _text(each.get("content")) for each in blocks)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sia_testing.by_hand", description="Play the language model by hand."
    )
    parser.add_argument("command", choices=("serve", "next", "reply"))
    parser.add_argument("folder", type=Path, help="where requests and replies are kept")
    parser.add_argument("file", nargs="?", help="of reply: a JSON file")
    parser.add_argument("--port", type=int, default=0, help="of serve: where to listen (default: any)")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    table = Table(options.folder)
    if options.command == "serve":
        return _serve(table, options.port)
    if options.command == "next":
        print(table.next())
        return 0
    if not options.file:
        parser.error("reply: give a file with the reply")
    try:
        table.reply(Path(options.file).read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"{options.file}: {error.strerror}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parser.error(f"{options.file}: {'.'.join(map(str, first['loc'])) or 'all'}: {first['msg']}")
    except ValueError as error:
        parser.error(str(error))
    return 0


def _serve(table: Table, port: int) -> int:
    closing = threading.Event()
    with ModelServer(lambda request: table.answered(request, closing), port) as server:
        print(
            f"sia run ... --improver litellm:openai/by-hand --improver-set base_url={server.openai_url} "
            "--improver-set timeout=86400",
            flush=True,
        )
        try:
            closing.wait()
        except KeyboardInterrupt:
            closing.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
