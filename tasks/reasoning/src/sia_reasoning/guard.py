"""Answers that a scorer of reasoning-gym may see.

Some of its scorers hand the answer to ``eval``, directly or through sympy. What they are
given must be an expression of the kind that is asked for and can be nothing else.
"""

from __future__ import annotations

import re

MOST = 10_000
"""Characters of an answer. The longest right answer of the library's default settings has 6,233."""

MOST_EVALUATED = 2_000
"""Characters of an answer that is evaluated."""

BOARDS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Their scorers evaluate what might be a list. Without small letters, dots and brackets nothing can be called."""

ARITHMETIC = frozenset({"countdown", "puzzle24"})
CALCULUS = frozenset({"intermediate_integration", "polynomial_multiplication", "simple_integration"})

_BOARD = re.compile(r"[A-Z0-9_ \n\t\[\],'\"-]*")
_SUM = re.compile(r"[0-9+\-*/(). \n\t]*")
_FUNCTIONS = "sin cos tan asin acos atan sinh cosh tanh exp log ln sqrt pi E C"
_TOKEN = re.compile(
    rf"\s+|[0-9]{{1,40}}(\.[0-9]{{1,12}})?(?![0-9.A-Za-z_])|({'|'.join(_FUNCTIONS.split())}|[a-zXYZ])(?![A-Za-z0-9_.])"
    r"|\*\*\s*([0-9]{1,2}(?![0-9.])|\(\s*-?[0-9]{1,2}\s*(/\s*[0-9]{1,2}\s*)?\))(?!\s*\*\*)|(?!\*\*)[-+*/()]"
)


def objection(dataset: str, answer: str) -> str:
    """Why a data set's scorer is not asked about an answer; an empty text where it may be."""
    evaluated = dataset in BOARDS | ARITHMETIC | CALCULUS
    most = MOST_EVALUATED if dataset in ARITHMETIC | CALCULUS else MOST
    if len(answer) > most:
        return f"the answer has {len(answer):,} characters; at most {most:,} are read"
    if evaluated and not _harmless(dataset, answer):
        return "the answer is not of the kind that is asked for, so it was not evaluated"
    return ""


def _harmless(dataset: str, answer: str) -> bool:
    if dataset in BOARDS:
        return _BOARD.fullmatch(answer) is not None
    if dataset in ARITHMETIC:
        return _SUM.fullmatch(answer) is not None and "**" not in answer and "//" not in answer
    place = 0
    while place < len(answer):
        token = _TOKEN.match(answer, place)
        if token is None:
            return False
        place = token.end()
    return True
