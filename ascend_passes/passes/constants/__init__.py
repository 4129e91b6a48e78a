"""What parameters hold: equal ones become one, and work on them alone is done once."""
