"""Backends that run a VLM's forward passes: this process (local) or a vLLM server (vllm)."""
