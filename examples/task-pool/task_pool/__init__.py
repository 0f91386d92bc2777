"""Tasks of two kinds, one after another, in one ledger."""
