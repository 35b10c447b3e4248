"""Policy networks, one file each: tokens, mask and proprio in, features out."""
