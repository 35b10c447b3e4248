"""Learning algorithms, one file each; they map tokens to actions and import no VLM and no simulator."""
