"""How far a policy is from the target: exactly on tiny spaces, by estimates with error bars."""
