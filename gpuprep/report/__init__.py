"""What a run tells people: tables, JSON and CSV."""
