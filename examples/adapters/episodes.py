"""An environment in the style of gymnasium, as a task: yours comes from `gymnasium.make(NAME)`."""

import random

from sia_adapters import Episodes
from sia_core.types import Metric


class Corridor:
    def reset(self, *, seed=None):
        self.place, self.goal = 0, random.Random(seed).choice([-5, 5])
        return (self.place, self.goal), {}

    def step(self, action):
        self.place += 1 if action else -1
        there = self.place == self.goal
        return (self.place, self.goal), float(there), there, abs(self.place) > 9, {}


class Walk(Episodes):
    name, brief, steps = "walk", "Walk to input['observation'][1]: actions are 0 (left) and 1 (right).", 12
    metric = Metric("arrived")

    def environment(self):
        return Corridor()
