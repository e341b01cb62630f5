"""`python -m tidsram` is the `tidsram` command."""

from tidsram.cli import main

if __name__ == "__main__":
    main()
