"""What a user can ask for, and the token ranges that follow from it."""
