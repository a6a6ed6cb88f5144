"""Front doors: people talk with agents where they work. The contract and the ledger; one folder for each service."""
