"""Drawing of procedural bodies: a canvas, painters, and a table of organs (`organs.toml`)."""
