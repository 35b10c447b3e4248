"""Small checkpoints of every model_type of transformers' image-text-to-text mapping, built from its own classes."""
