"""Fine-tuning objectives: one file an algorithm, a few lines of mathematics over log-ratios."""
