"""The rules themselves run over an abstract world: every history within bounds.

    python -m tests.model [--faults N] [--changes N]

world.py is the world and what must hold in it, actions.py what each action of the rules does there, effect by effect,
explorer.py visits every state, faults.py spoils the rules on purpose.
"""
