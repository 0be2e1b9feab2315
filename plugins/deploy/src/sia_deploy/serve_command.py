"""``sia serve``: the best agent of a run behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from sia_cli.options import add_address, add_run, add_trust
from sia_cli.output import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser)
    add_address(parser, 8643, "another machine needs the key that is printed")


def run(options: argparse.Namespace) -> int:
    import secrets

    from sia_cli.bounded_http import Server, bound
    from sia_core.plugins import Plugins
    from sia_core.run.run_folders import find_run
    from sia_deploy.agent import DeployedAgent
    from sia_deploy.server import CONNECTIONS, LOCAL, application

    folder = find_run(Path(options.runs_dir), options.name)
    token = None if options.host in LOCAL else secrets.token_urlsafe(24)
    with (
        DeployedAgent(folder, Plugins.discover(), options.trust) as agent,
        closing(bound(options.host, options.port)) as listener,
    ):
        about = agent.about
        parts = f"harness {about.harness[:12]}" + (f", adapter {about.adapter[:12]}" if about.adapter else "")
        print(shown(f"{about.run}: {parts}, in sandbox {about.sandbox}"))
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"OPENAI_BASE_URL=http://{host}:{listener.getsockname()[1]}/v1")
        print(f"OPENAI_API_KEY={token or 'any'}")
        print("Ctrl-C ends it.", flush=True)
        Server(application(agent, token), CONNECTIONS, log_level="critical").serve_until_interrupted(listener)
    return 0
