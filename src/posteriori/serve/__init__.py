"""The posterior behind an OpenAI-compatible endpoint: `posteriori serve`.

Read `app.py` first, then `posterior.py` (a request becomes draws) and `lockstep.py` (requests share
passes over the model). It imports samplers, core, models and the report's page policy; the command
line alone imports it. FastAPI and uvicorn come with `posteriori[serve]`.
"""
