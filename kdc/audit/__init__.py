"""The audit's values and rules, pure: what is hashed, how entries hang together, what is wrong.

Where entries are kept and when they are written is kdc.store's affair.
"""
