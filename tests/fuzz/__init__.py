"""Coverage-guided targets for the decoders, and a storm of mutated packets against real processes.

`python -m tests.fuzz.packet` needs atheris (the extra `fuzz`); everything else works without it.
"""
