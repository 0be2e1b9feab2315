"""SIA: an AI agent that improves itself at a task, by harness edits and by weight updates."""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sia_core.api import Run, improve, improve_async, open_run, runs

__all__ = ["Run", "__version__", "improve", "improve_async", "open_run", "runs"]


def __getattr__(name: str) -> object:
    """The Python front, imported when it is asked for."""
    if name in __all__:
        from sia_core import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
