"""Side-by-side benchmarks against real peers; `python -m bench.run` starts everything it needs.

Nothing of the product imports this package.
"""
