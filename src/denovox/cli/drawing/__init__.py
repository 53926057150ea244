"""What `denovox synthesize` is made of, and `denovox phantom`."""
