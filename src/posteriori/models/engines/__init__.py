"""Language models that another program draws from: vLLM or llama.cpp in this process, or a
server by its HTTP API.

Read `engine.py` first (what `posteriori.Engine` is), then `session.py` (weights go out, and every
update is verified) and `backend.py` (what another program has to be able to do). It imports the
rest of `models`.
"""
