"""Frozen encoders, one file each: frames and contexts in, tokens out.

An encoder's file has a pydantic model `Defaults` of its options and a function `create(source, options)`; its file name
is its name in configs. Code that several encoders share is in `common`.
"""

from pr2l.encoders.base import Encoder, EncoderSource

__all__ = ["Encoder", "EncoderSource"]
