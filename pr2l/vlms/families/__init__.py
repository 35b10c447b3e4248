"""Families of VLMs, one file each; the name of the file is the name of the family.

A file has MODEL_TYPES, the values of `model_type` in config.json that it supports, and `load(path, options)`, the
`VLM.load` of its class. `Family` and `ChatVLM` document the methods that a family overrides.
"""
