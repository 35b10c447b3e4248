"""Frozen encoders, one file each: frames (and contexts) in, Tokens out."""
