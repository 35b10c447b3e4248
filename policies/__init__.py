"""Algorithms, one file each; they see tokens and actions, never a VLM or a simulator."""
