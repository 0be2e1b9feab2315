"""The tasks that came with the released SIA beside LawBench: gpqa, longcot-chess and spaceship-titanic."""
