"""A harness that runs code as an experiment."""
