"""Scores of prompts, prompt search, and correlation with the results of training."""
