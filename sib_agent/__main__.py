"""``python -m sib_agent``."""

from sib_agent.cli import main

if __name__ == "__main__":
    main()
