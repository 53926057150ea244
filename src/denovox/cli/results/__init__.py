"""What every command that writes a result offers besides it: manifest, preview, progress."""
