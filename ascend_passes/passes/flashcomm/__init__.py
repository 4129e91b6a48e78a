"""FlashComm: rows stay divided among ranks for as long as operators work row by row."""
