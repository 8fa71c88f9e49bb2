"""The one place that knows of several processes, on one machine or many.

Every process runs the same program. What is cheap (weighing draws, statistics, decisions) each does
whole, with the same numbers; what is costly (a language model over rows, a user's function) is done
by rows, a share per process, and put together again. So samplers, objectives and diagnostics do not
know. Read `world.py` first, then `exchange.py`. It imports `posteriori.errors` alone.
"""
