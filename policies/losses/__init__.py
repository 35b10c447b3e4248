"""Losses and weights that several algorithms share."""
