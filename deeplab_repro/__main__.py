"""``python -m deeplab_repro COMMAND``: the command line, as torchrun starts it."""

from deeplab_repro.cli import main

if __name__ == "__main__":
    main()
