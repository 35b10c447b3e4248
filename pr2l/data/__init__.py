"""Recorded episodes, stores of embeddings, and labelled frames."""
