"""The embedded corpus: drawn talking heads with exact ground truth (see README.md)."""
