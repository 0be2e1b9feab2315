"""Hooks that offer three tasks, and the verifier of each."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> list[Offer]:
    return [
        Offer("gpqa", "graduate-level questions of science, four choices each", "sia_bundled.questions:Gpqa"),
        Offer("longcot-chess", "best moves, and a knight's shortest way", "sia_bundled.questions:Chess"),
        Offer("spaceship-titanic", "which passengers were transported", "sia_bundled.passengers:Titanic"),
    ]


@hookimpl
def sia_verifiers() -> list[Offer]:
    return [
        Offer("gpqa", "right or wrong letter", "sia_bundled.questions:GpqaVerifier"),
        Offer("longcot-chess", "right or wrong moves, in any order, or number", "sia_bundled.questions:ChessVerifier"),
        Offer("spaceship-titanic", "right or wrong", "sia_bundled.passengers:TitanicVerifier"),
    ]
