"""Sandboxes, the local backend, your own cases, and simple verifiers."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> list[Offer]:
    return [
        Offer("cases", "your own cases and harness: --harness DIR --data cases.jsonl", "sia_runtime.cases:Cases"),
    ]


@hookimpl
def sia_verifiers() -> list[Offer]:
    return [
        Offer("exact", "right if the answer equals the case's", "sia_runtime.builtin_verifiers:Exact"),
        Offer(
            "numeric",
            "right if the number is within a tolerance of the case's",
            "sia_runtime.builtin_verifiers:Numeric",
        ),
        Offer(
            "command",
            "a command of yours reads case and answer and prints the score",
            "sia_runtime.builtin_verifiers:Command",
        ),
        Offer(
            "python",
            "a function of yours in a Python file scores (answer, case): python:FILE:FUNCTION",
            "sia_runtime.builtin_verifiers:PythonFunction",
        ),
    ]


@hookimpl
def sia_backends() -> list[Offer]:
    return [
        Offer("local", "this machine", "sia_runtime.local:LocalBackend"),
    ]


@hookimpl
def sia_sandboxes() -> list[Offer]:
    return [
        Offer("namespaces", "Linux namespaces, Landlock and seccomp", "sia_runtime.sandbox.namespaces:Namespaces"),
        Offer("bwrap", "bubblewrap, with Landlock and seccomp inside", "sia_runtime.sandbox.bwrap:Bubblewrap"),
        Offer("docker", "a container on a Docker engine; for macOS and Windows", "sia_runtime.sandbox.docker:Docker"),
        Offer("process", "Landlock, seccomp and limits, without namespaces", "sia_runtime.sandbox.process:Process"),
    ]
