"""Pages that a person wants to look at, in one file that opens without a network."""
