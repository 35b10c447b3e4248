"""Environments as batches of tokens: seeded episodes, worker processes, and the VecEnv wrapper that embeds frames."""
