"""The revisions of the schema; `kdc db` runs them, `kdc db sql` prints them."""
