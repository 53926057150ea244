"""`python -m denovox`: the command line, for launchers that want a module (torchrun)."""

from .cli.main import main

if __name__ == "__main__":
    main(prog_name="denovox")  # in messages and manifests
