"""One run of denovox: command.py without Slicer, logic.py within it."""
