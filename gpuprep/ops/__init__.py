"""Volume operations: each with a plain reference and a kernel path in one file."""
