"""An engine for SIA whose rollouts are sampled by vLLM servers."""
