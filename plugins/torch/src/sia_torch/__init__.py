"""An engine for SIA: samples from a causal language model and trains it, on torch, transformers and peft."""
