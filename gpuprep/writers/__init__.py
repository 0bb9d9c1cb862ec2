"""Output layouts. Only this package knows their conventions."""
