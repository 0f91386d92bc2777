"""RapidTrainChain for Flower: signed prediction votes, a fork ledger, and its verifier."""
