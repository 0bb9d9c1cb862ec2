"""Transfer syntaxes to pixels."""
