"""``python -m sib_server``."""

from sib_server.cli import main

if __name__ == "__main__":
    main()
