"""Short questions for SIA that a language model answers: sums in words, and the data sets of reasoning-gym by name."""
