"""The worker's side: batches of rollouts, the policy's gateway, the verifier's process."""
