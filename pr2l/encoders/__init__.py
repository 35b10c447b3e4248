"""Frozen encoders, one file each, which turn frames and contexts into tokens.

The name of an encoder in configs is the name of its file, which contains

    Defaults                   a pydantic model of its options, in addition to those of the VLM
    create(source, options)    returns the `Encoder`; source: an `EncoderSource`, options: a `Defaults`

Code that several encoders share is in `common`. `Encoder` documents the methods that an encoder overrides.
"""

from pr2l.encoders.base import Encoder, EncoderSource

__all__ = ["Encoder", "EncoderSource"]
