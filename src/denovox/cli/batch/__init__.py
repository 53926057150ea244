"""`denovox batch`: a command for one scan, applied to many."""

from .command import batch

__all__ = ["batch"]
