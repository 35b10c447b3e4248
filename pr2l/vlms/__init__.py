"""VLM families, one file each: frames and texts in, hidden states out. See pr2l/core/types.py for the shapes."""
