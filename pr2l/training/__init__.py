"""Training, run folders, checkpoints, metrics, evaluation and collection of episodes."""
