"""`python -m pipeline`, which torchrun can start."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
