"""The only door to `cryptography`: keys go in and come out as `Secret`, nothing is stored here."""
