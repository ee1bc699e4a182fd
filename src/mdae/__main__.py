"""`python -m mdae` is `mdae`."""

from mdae.cli import main

if __name__ == "__main__":
    main()
