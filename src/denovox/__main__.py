"""`python -m denovox`: the command line, for launchers that want a module (torchrun)."""

from .app.cli import main

if __name__ == "__main__":
    main()
