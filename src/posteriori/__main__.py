"""`python -m posteriori`, the same as the `posteriori` command."""

from posteriori.cli.main import main

if __name__ == "__main__":
    main()
