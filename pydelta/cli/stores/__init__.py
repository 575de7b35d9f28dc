"""Commands that make a store, change it and read it."""
