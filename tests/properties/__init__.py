"""Property-based tests: any argument gives a correct result or is refused with a message."""
