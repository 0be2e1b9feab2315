"""``sia serve``: the best agent of a run behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from sia_core.cli import add_run, shown
from sia_core.cli.view import add_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_address(parser, 8643, "another machine needs the key that is printed")


def run(options: argparse.Namespace) -> int:
    import secrets

    from sia_core.plugins import Plugins
    from sia_core.running import find_run
    from sia_core.serving import Agent, serve, server

    folder = find_run(Path(options.runs_dir), options.name)
    token = None if options.host in ("127.0.0.1", "localhost", "::1") else secrets.token_urlsafe(24)
    with Agent(folder, Plugins.discover()) as agent, server(agent, options.host, options.port, token) as found:
        about = agent.about
        made = f"harness {about.harness[:12]}" + (f", adapter {about.adapter[:12]}" if about.adapter else "")
        print(shown(f"{about.run}: {made}, in sandbox {about.sandbox}"))
        print(f"OPENAI_BASE_URL=http://{options.host}:{found.server_address[1]}/v1")
        print(f"OPENAI_API_KEY={token or 'any'}")
        print("Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            serve(found)
    return 0
