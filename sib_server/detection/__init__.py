"""What is detected, and how it gets to the hosts."""
