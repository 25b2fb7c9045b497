"""ditkit: a toolkit for diffusion transformers. Importing it has no side effect and does not import torch."""

__version__ = "0.1.0"
