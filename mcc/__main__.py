"""Entry point of `python -m mcc`, the same as `mcc`."""

from mcc.cli.main import main

if __name__ == "__main__":
    main()
