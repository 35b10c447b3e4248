"""One module per family of VLM: small random-weight models with their real processors, saved as a
checkpoint."""
