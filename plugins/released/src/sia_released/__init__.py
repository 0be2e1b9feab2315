"""Task folders of the released SIA (``sia-agent`` 0.6), run as they are.

A folder holds ``data/public`` with ``task.md``, questions and, most often, ``evaluate.py``;
``data/private`` with the answers; and ``reference/reference_target_agent.py``, a program that is called with
``--dataset_dir`` and ``--working_dir`` and leaves its answers as files. There the whole benchmark is one number.
Here the questions are dealt out in parts over the splits, and an instance is one part: the agent finds a data set of
those questions alone, and ``evaluate.py`` finds the answers to those alone.
"""
