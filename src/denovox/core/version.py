"""The version of denovox."""

__version__ = "0.1.0"
