"""One run, on the side of its driver: the loop, the gate, the ledger and what is read from it."""
