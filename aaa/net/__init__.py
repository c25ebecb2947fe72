"""Sockets and files: what the roles never touch."""
