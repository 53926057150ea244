"""Training kits: packing them, and the code that runs on the target machine."""
