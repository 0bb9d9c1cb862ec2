"""What each peer does for the same result: a module a peer, which alone imports it."""
