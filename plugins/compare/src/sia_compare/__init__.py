"""Arms side by side: runs that differ in one choice alone, at one budget, over several seeds; and what they show.

A comparison is a folder: ``comparison.json`` says what is compared, and beside it lies
a run for each arm and seed, a normal one, made by a command that anybody could type.
"""
