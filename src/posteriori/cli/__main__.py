"""`python -m posteriori.cli`, as the `posteriori` command: what a launcher can start."""

from posteriori.cli.main import main

if __name__ == "__main__":
    main()
