"""Policy networks, one file each: features from tokens, mask and proprio."""
