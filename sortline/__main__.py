"""`python -m sortline`: the command line."""

from sortline.cli import main

if __name__ == "__main__":
    main()
