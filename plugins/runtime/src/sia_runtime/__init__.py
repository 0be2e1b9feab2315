"""Runs what a run of SIA needs to have run, on whatever machine."""
