"""Other roads in: rows with a reward function, environments in the style of verifiers and of gymnasium, as tasks.

A class of one's own names the data and the reward; it is offered twice, as a task and, by its ``judge``, as the
verifier that holds the truth in its own process::

    Offer("mine", "one line", "my_package:Mine")          # sia_tasks
    Offer("mine", "one line", "my_package:Mine.judge")    # sia_verifiers
"""

from sia_adapters.episodes import Episodes
from sia_adapters.rows import Rows
from sia_adapters.single_turn import SingleTurn

__all__ = ["Episodes", "Rows", "SingleTurn"]
