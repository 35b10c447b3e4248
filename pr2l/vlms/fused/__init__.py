"""Forward passes of some architectures with fewer and fused operations, for the CPU.

A small VLM spends half of its time outside matrix products: in copies, biases, activations, residual sums and Python.
Each file here computes the same function as a module of transformers, with that module's own weights: `davit` the
vision tower of Florence-2, `bart` its encoder and decoder. `layers` has the fused operations.
"""
