"""Requests to servers: JSON in, JSON out, with a deadline, and tried again where that can help.

Read `post.py` first. It imports `errors` alone.
"""
