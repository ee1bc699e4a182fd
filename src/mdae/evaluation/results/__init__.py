"""What an evaluation comes to: written, read, and counted."""
