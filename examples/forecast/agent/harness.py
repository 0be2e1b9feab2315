"""Forecasts the temperatures of the next six hours from those of the last two days: all as the last one."""

AHEAD = 6


def solve(instance, ctx):
    past = instance.input["past"]
    return [past[-1]] * AHEAD
