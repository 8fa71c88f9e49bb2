"""Fine-tuning: one loop that does not know which algorithm it runs."""
