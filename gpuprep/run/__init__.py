"""Plans, cases, the ledger and the engines that run them."""
