"""SIA: an AI agent that improves itself at a task, by harness edits and by weight updates."""

__version__ = "0.1.0"

__all__ = ["Run", "__version__", "improve", "improve_async", "open_run", "runs"]


def __getattr__(name: str) -> object:
    """The Python front, which another distribution has as entry points; imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sia_core.advice import entries

    for point in entries("sia_front", name):
        return point.load()
    raise ImportError(f"`sia_core.{name}` is in sia-cli, which is not installed: pip install sia-cli", name=__name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
