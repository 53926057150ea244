"""What runs on the machine that a kit was packed for: `run.sh`, and the Python that it calls."""
