"""The vault: what a credential may look like, how its secret is sealed, and the keys that it is sealed with."""
