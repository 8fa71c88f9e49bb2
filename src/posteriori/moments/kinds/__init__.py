"""What moments are in a config: their settings, the check of these, and how they are made of them.

Nothing here imports torch before evidence is made.
"""
