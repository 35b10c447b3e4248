"""One file per family of VLMs: the file's name is the family's name."""
