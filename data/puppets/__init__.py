"""The embedded corpus: drawn talking heads with exact truth (see README.md)."""
