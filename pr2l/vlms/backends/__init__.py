"""Where a VLM's forward passes run: in this process (local) or in vLLM."""
