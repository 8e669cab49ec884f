"""``python -m screening`` is the command ``screening``."""

from screening.cli import program

if __name__ == "__main__":
    program()
