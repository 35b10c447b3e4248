"""Learning algorithms, one file each; they read tokens and choose actions, and import no VLM and no simulator."""
