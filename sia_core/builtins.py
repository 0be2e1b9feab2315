"""The core's own offers. They travel the same road as a stranger's."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> list[Offer]:
    return [
        Offer("cases", "your own cases and harness: --harness DIR --data cases.jsonl", "sia_core.cases:Cases"),
        Offer("folder", "a task folder of the released SIA: --task-dir DIR", "sia_core.folders.task:Folder"),
    ]


@hookimpl
def sia_verifiers() -> list[Offer]:
    return [
        Offer("exact", "right if the answer equals the case's", "sia_core.verifiers:Exact"),
        Offer("numeric", "right if the number is within a tolerance of the case's", "sia_core.verifiers:Numeric"),
        Offer("command", "a command of yours reads case and answer and prints the score", "sia_core.verifiers:Command"),
        Offer("evaluate", "the evaluate.py of a task folder", "sia_core.folders.verifier:Evaluate"),
    ]


@hookimpl
def sia_backends() -> list[Offer]:
    return [Offer("local", "this machine", "sia_core.local:LocalBackend")]


@hookimpl
def sia_sandboxes() -> list[Offer]:
    return [
        Offer("namespaces", "Linux namespaces, Landlock and seccomp", "sia_core.sandbox.namespaces:Namespaces"),
        Offer("bwrap", "bubblewrap, with Landlock and seccomp inside", "sia_core.sandbox.bwrap:Bubblewrap"),
        Offer("docker", "a container on a Docker engine; for macOS and Windows", "sia_core.sandbox.docker:Docker"),
        Offer("process", "Landlock, seccomp and limits, without namespaces", "sia_core.sandbox.process:Process"),
    ]
