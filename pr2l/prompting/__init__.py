"""Scores of prompts, prompt search, and correlation of scores with the results of training."""
