"""`python -m mcc` is `mcc`."""

from mcc.cli.main import main

if __name__ == "__main__":
    main()
