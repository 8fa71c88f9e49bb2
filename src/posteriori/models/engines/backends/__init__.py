"""The programs that can draw: vLLM and llama.cpp in this process, or a server by its HTTP API.

Each is a `posteriori.models.engines.backend.Backend`; `start.py` beside this folder starts them by
name. Read `http_backend.py` first.
"""
