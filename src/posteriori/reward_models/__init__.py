"""Reward models from human preferences: trained, calibrated, and honest about what they know."""
