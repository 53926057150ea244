"""Scans as pictures, and for browsers and notebooks."""
