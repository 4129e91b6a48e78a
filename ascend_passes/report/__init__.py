"""What happened, as a value, as text, and in a folder."""
