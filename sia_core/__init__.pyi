# The front for type checkers and editors. The package itself imports none of it, and works without sia-cli.
from sia_cli.api import Run as Run
from sia_cli.api import improve as improve
from sia_cli.api import improve_async as improve_async
from sia_cli.api import open_run as open_run
from sia_cli.api import runs as runs

__version__: str
__all__ = ["Run", "__version__", "improve", "improve_async", "open_run", "runs"]
