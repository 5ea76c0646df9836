"""The command `sensorium`; also `python -m pipeline`, which torchrun can start."""

import sys

from pipeline.platforms import check_platform


def main() -> None:
    """Check the platform before the imports that need it, then run the command line."""
    try:
        check_platform()
    except ValueError as error:
        print(f"sensorium: {error}", file=sys.stderr)
        sys.exit(2)
    from pipeline.cli import main as run

    run()


if __name__ == "__main__":
    main()
