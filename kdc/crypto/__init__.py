"""The only door to `cryptography` and gmpy2: keys go in and come out as `Secret`, none is kept."""
