"""The protocol, the keys and the records.  It knows nothing of aaa."""
