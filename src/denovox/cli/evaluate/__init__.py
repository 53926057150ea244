"""`denovox evaluate`: a subcommand for each kind of protocol, and one for all of them."""

from . import evidence
from .protocols import evaluate

__all__ = ["evaluate", "evidence"]
